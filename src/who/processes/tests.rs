// SPDX-License-Identifier: Apache-2.0

use super::*;

fn comm(name: &str) -> Comm {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Comm(bytes)
}

fn program(path: &str) -> Image {
    Image { exe: Some(path.as_bytes().into()), ..Image::default() }
}

/// Of pid `pid`, forked at `start` by pid 1; not to be found in /proc.
fn event(pid: u32, start: u64, exec_id: u32, change: Change) -> ProcessEvent {
    ProcessEvent {
        name: comm("name"),
        parent: 1,
        parent_start_ns: 1,
        proc_pid: u32::MAX,
        ..ProcessEvent::bare(pid, start, exec_id, change)
    }
}

fn forked(pid: u32, start: u64, parent: (u32, u64), exec_id: u32) -> ProcessEvent {
    let (parent, parent_start_ns) = parent;
    ProcessEvent { parent, parent_start_ns, ..event(pid, start, exec_id, Change::Fork) }
}

fn table(events: &[ProcessEvent]) -> Processes {
    let mut processes = Processes::default();
    let init = event(1, 1, 1, Change::Exec(program("/init")));
    processes.apply(&ProcessEvent { parent: 0, ..init });
    events.iter().for_each(|event| processes.apply(event));
    processes
}

/// The pids of the ancestors; 0 where some are left out.
fn line(process: &Process) -> Vec<u32> {
    let pid = |ancestor| match ancestor {
        Ancestor::Known { pid, .. } => pid,
        Ancestor::LeftOut(_) => 0,
    };
    process.ancestors().map(pid).collect()
}

/// Executable and source of the process that connects.
fn who(processes: &mut Processes, pid: u32, start_ns: u64, exec_id: u32) -> (String, Source) {
    let connect = Connect { pid, uid: Some(0), start_ns, exec_id, ..Connect::nowhere() };
    let process = processes.of(&connect);
    let exe = process.image().exe.clone().unwrap_or_default();
    (String::from_utf8(exe.into()).unwrap(), process.source())
}

#[test]
fn a_fork_runs_its_parents_program_until_it_execs() {
    let mut processes = table(&[forked(7, 70, (1, 1), 1)]);
    assert_eq!(who(&mut processes, 7, 70, 1), ("/init".into(), Source::Fork));
    processes.apply(&event(7, 70, 2, Change::Exec(program("/bin/sh"))));
    assert_eq!(who(&mut processes, 7, 70, 2), ("/bin/sh".into(), Source::Exec));
    assert_eq!(who(&mut processes, 1, 1, 1), ("/init".into(), Source::Exec));
}

#[test]
fn after_an_exec_that_was_lost_the_old_program_is_never_shown() {
    let mut processes = table(&[forked(7, 70, (1, 1), 1)]);
    assert_eq!(who(&mut processes, 7, 70, 2), (String::new(), Source::None));
    // Nor by a child, which inherits what is not known.
    processes.apply(&forked(8, 80, (7, 70), 2));
    assert_eq!(who(&mut processes, 8, 80, 2), (String::new(), Source::None));
}

#[test]
fn a_child_of_a_parent_whose_exec_was_lost_does_not_get_the_old_program() {
    let mut processes = table(&[forked(7, 70, (1, 1), 1), forked(8, 80, (7, 70), 2)]);
    assert_eq!(who(&mut processes, 8, 80, 2), (String::new(), Source::None));
}

#[test]
fn a_reused_pid_is_another_process() {
    let mut processes = table(&[event(7, 70, 2, Change::Exec(program("/old")))]);
    processes.apply(&event(7, 70, 2, Change::Exit(0)));
    processes.apply(&forked(7, 90, (1, 1), 1));
    assert_eq!(who(&mut processes, 7, 90, 1), ("/init".into(), Source::Fork));
    // A late word of the first says nothing about the second.
    processes.apply(&event(7, 70, 2, Change::Exit(0)));
    assert_eq!(who(&mut processes, 7, 90, 1).1, Source::Fork);
    assert_eq!(who(&mut processes, 7, 70, 2).1, Source::None);
}

#[test]
fn dead_parents_stay_parents() {
    let mut processes = table(&[
        forked(7, 70, (1, 1), 1),
        forked(8, 80, (7, 70), 1),
        event(7, 70, 1, Change::Exit(0)),
    ]);
    // By now its real parent is another.
    processes.apply(&event(8, 80, 2, Change::Exec(program("/bin/x"))));
    let connect = Connect { pid: 8, uid: Some(0), start_ns: 80, exec_id: 2, ..Connect::nowhere() };
    let process = processes.of(&connect);
    assert_eq!((process.ppid, line(&process)), (7, vec![7, 1]));
}

#[test]
fn a_child_that_runs_another_program_shows_that_its_parents_exec_was_lost() {
    let image = Image { exe: Some(b"/bin/old"[..].into()), ..Image::default() };
    let exec = event(7, 70, 1, Change::Exec(image));
    let processes = table(&[forked(7, 70, (1, 1), 1), exec, forked(8, 80, (7, 70), 2)]);
    assert_eq!(processes.now(7).unwrap().source(), Source::None);
    assert_eq!(processes.now(7).unwrap().image().exe, None);
    assert_eq!(processes.now(8).unwrap().source(), Source::None);
}

#[test]
fn a_child_of_another_forker_says_nothing_of_its_parents_program() {
    let image = Image { exe: Some(b"/bin/a"[..].into()), ..Image::default() };
    let exec = event(7, 70, 1, Change::Exec(image));
    let cloned = forked(8, 80, (7, 70), NOT_ITS_PARENTS);
    let processes = table(&[forked(7, 70, (1, 1), 1), exec, cloned]);
    assert_eq!(processes.now(7).unwrap().source(), Source::Exec);
    assert_eq!(processes.now(8).unwrap().source(), Source::None);
}

#[test]
fn only_the_first_thread_renames_the_process() {
    let rename = |tid| ProcessEvent { tid, ..event(7, 70, 1, Change::Rename(comm("new"))) };
    let mut processes = table(&[forked(7, 70, (1, 1), 1), rename(9)]);
    assert_eq!(processes.now(7).unwrap().name(), comm("name"));
    processes.apply(&rename(7));
    assert_eq!(processes.now(7).unwrap().name(), comm("new"));
}

#[test]
fn a_million_short_processes_leave_nothing_behind() {
    let mut processes = table(&[]);
    for i in 0..1_000_000 {
        processes.apply(&forked(7, i, (1, 1), 1));
        processes.apply(&event(7, i, 1, Change::Exit(0)));
    }
    assert_eq!(processes.len(), 1);
}

/// Each forks the next; all but the last die, if not all live on.
fn in_a_row(n: u32, dying: bool) -> Processes {
    let mut processes = table(&[]);
    let mut parent = (1, 1);
    for pid in 2..=n {
        let child = (pid, u64::from(pid));
        processes.apply(&forked(child.0, child.1, parent, 1));
        if dying && parent.0 != 1 {
            processes.apply(&event(parent.0, parent.1, 1, Change::Exit(0)));
        }
        parent = child;
    }
    processes
}

#[test]
fn of_a_long_line_of_ancestors_the_nearest_and_the_first_are_known() {
    for dying in [false, true] {
        let processes = in_a_row(37, dying);
        assert_eq!(line(&processes.now(37).unwrap()), (1..37).rev().collect::<Vec<_>>());
        let processes = in_a_row(100, dying);
        let last = processes.now(100).unwrap();
        let expected: Vec<_> = (68..100).rev().chain([0, 4, 3, 2, 1]).collect();
        assert_eq!(line(&last), expected);
        let left_out = last.ancestors().find_map(|ancestor| match ancestor {
            Ancestor::LeftOut(n) => n,
            Ancestor::Known { .. } => None,
        });
        assert_eq!(left_out, Some(100 - 1 - 36));
        assert_eq!(processes.len(), if dying { 2 } else { 100 });
    }
}

#[test]
fn what_a_deep_descendant_does_not_show_another_still_does() {
    let mut processes = in_a_row(40, true);
    processes.apply(&forked(1000, 1000, (40, 40), 1));
    processes.apply(&event(40, 40, 1, Change::Exit(0)));
    let mut parent = (1000, 1000);
    for pid in 1001..1100 {
        let child = (pid, u64::from(pid));
        processes.apply(&forked(child.0, child.1, parent, 1));
        parent = child;
    }
    let expected: Vec<_> = (9..=40).rev().chain([0, 4, 3, 2, 1]).collect();
    assert_eq!(line(&processes.now(1000).unwrap()), expected);
}

#[test]
fn a_descendant_of_a_root_is_one_however_long_the_line() {
    let mut processes = Processes { roots: vec![50], ..Processes::default() };
    let mut parent = (0, 0);
    for pid in 1..200 {
        let child = (pid, u64::from(pid));
        let fork = forked(child.0, child.1, parent, 1);
        processes.apply(&ProcessEvent { proc_pid: pid, ..fork });
        assert_eq!(processes.now(pid).unwrap().descends_from_root(), pid > 50, "{pid}");
        if pid > 1 {
            processes.apply(&event(parent.0, parent.1, 1, Change::Exit(0)));
        }
        parent = child;
    }
}

#[test]
fn the_list_at_start_gives_each_its_ancestors_whatever_its_order() {
    let listed = |pid: u32| ProcessEvent {
        parent: pid - 1,
        parent_start_ns: u64::from(pid) - 1,
        ..event(pid, u64::from(pid), 1, Change::Fork)
    };
    let mut list: Vec<_> = (1..=50_000).rev().map(listed).collect();
    list.swap(7, 40_000);
    let processes = Processes::scan(Vec::new(), Rc::new(move || Ok(list.clone()))).unwrap();
    let expected: Vec<_> = (49_968..50_000).rev().chain([0, 4, 3, 2, 1]).collect();
    assert_eq!(line(&processes.now(50_000).unwrap()), expected);
    assert_eq!(line(&processes.now(3).unwrap()), [2, 1]);
}

/// This process, as the kernel's list has it.
fn listed(exec_id: u32) -> ProcessEvent {
    let pid = std::process::id();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: u64 = stat.rsplit(')').next().unwrap().split(' ').nth(20).unwrap().parse().unwrap();
    ProcessEvent::bare(pid, ticks * 10_000_000, exec_id, Change::Fork)
}

#[test]
fn what_happened_before_the_list_at_start_changes_nothing_in_it() {
    let (own, older) = (listed(4), listed(3));
    let (pid, start_ns) = (own.pid, own.start_ns);
    let mut processes =
        Processes::scan(Vec::new(), Rc::new(move || Ok(vec![own.clone()]))).unwrap();
    assert_eq!(processes.now(pid).unwrap().source(), Source::Procfs);
    processes.apply(&older);
    processes.apply(&forked(8, start_ns + 1, (pid, start_ns), 3));
    assert_eq!(processes.now(8).unwrap().source(), Source::None);
    assert_eq!(who(&mut processes, pid, start_ns, 3), (String::new(), Source::None));
    assert_eq!(who(&mut processes, pid, start_ns, 4).1, Source::Procfs);
}

#[test]
fn to_look_at_a_later_other_end_changes_nothing_of_older_rows() {
    let mut processes = table(&[event(7, 70, 2, Change::Exec(program("/first")))]);
    let later = Connect { pid: 7, uid: Some(0), start_ns: 70, exec_id: 3, ..Connect::nowhere() };
    let unborn = Connect { pid: 9, uid: Some(0), start_ns: 90, exec_id: 1, ..Connect::nowhere() };
    assert_eq!(processes.of_other(&later).source(), Source::None);
    assert_eq!(processes.of_other(&unborn).source(), Source::None);
    assert!(processes.now(9).is_none());
    assert_eq!(who(&mut processes, 7, 70, 2), ("/first".into(), Source::Exec));
    processes.apply(&event(7, 70, 3, Change::Exec(program("/second"))));
    assert_eq!(processes.of_other(&later).image().exe.as_deref(), Some(&b"/second"[..]));
}

#[test]
fn of_a_process_whose_exec_was_lost_only_that_program_is_shown() {
    let exec_id = Rc::new(std::cell::Cell::new(5));
    let kernel = Rc::clone(&exec_id);
    let (pid, start_ns) = (listed(0).pid, listed(0).start_ns);
    let kernel = Rc::new(move || Ok(vec![listed(kernel.get())]));
    let mut processes = Processes { kernel: Some(kernel), ..Processes::default() };
    processes.apply(&listed(2));
    // By now it runs the next but one.
    assert_eq!(who(&mut processes, pid, start_ns, 3), (String::new(), Source::None));
    assert_eq!(who(&mut processes, pid, start_ns, 5).1, Source::Procfs);
    exec_id.set(6);
    assert_eq!(who(&mut processes, pid, start_ns, 5).1, Source::Procfs);
    assert_eq!(who(&mut processes, pid, start_ns, 7), (String::new(), Source::None));
}

#[test]
fn who_is_not_in_the_kernels_list_is_gone_once_all_before_it_is_applied() {
    let list = Rc::new(|| Ok(vec![event(8, 80, 1, Change::Fork)]));
    let mut processes = Processes { kernel: Some(list), ..Processes::default() };
    for pid in [7, 8] {
        processes.apply(&event(pid, u64::from(pid) * 10, 1, Change::Exec(program("/x"))));
    }
    processes.look_for_gone();
    processes.applied(1);
    // Its end may have been reported, and is yet to be applied.
    assert_eq!(processes.now(7).unwrap().source(), Source::Exec);
    processes.apply(&event(9, 90, 1, Change::Exec(program("/born/later"))));
    processes.applied(u64::MAX);
    let alive = [7, 8, 9].map(|pid| processes.now(pid).is_some());
    assert_eq!(alive, [false, true, true]);
}

#[test]
fn a_dead_ancestor_keeps_its_path_and_no_arguments() {
    let path = format!("/{}", "p".repeat(1_000));
    let image = Image { args: Some(Args::new(b"a\0b\0")), ..program(&path) };
    let exec = event(7, 70, 1, Change::Exec(image.clone()));
    let events = [exec, forked(8, 80, (7, 70), 1), event(7, 70, 1, Change::Exit(0))];
    let processes = table(&events);
    let child = processes.now(8).unwrap();
    assert_eq!(*child.image(), image);
    let Some(Ancestor::Known { image, .. }) = child.ancestors().next() else {
        panic!("its parent is known");
    };
    assert_eq!(image.exe.as_deref(), Some(&path.as_bytes()[1_001 - MAX_PARENT_EXE - 1..]));
    assert_eq!(image.args, None);
}

#[test]
fn a_parent_that_the_kernel_does_not_list_is_looked_up_once() {
    let own = listed(4);
    let child = |pid| forked(pid, own.start_ns + 1, (own.pid, own.start_ns), 4);
    let list: Vec<_> = (1_000_000..1_000_100).map(child).collect();
    let calls = Rc::new(std::cell::Cell::new(0));
    let count = Rc::clone(&calls);
    let kernel = move || {
        count.set(count.get() + 1);
        Ok(list.clone())
    };
    let processes = Processes::scan(Vec::new(), Rc::new(kernel)).unwrap();
    assert_eq!(processes.now(own.pid).unwrap().source(), Source::Procfs);
    let child = processes.now(1_000_007).unwrap();
    assert_eq!(line(&child), [own.pid]);
    assert!(calls.get() < 6, "{}", calls.get());
}
