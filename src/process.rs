// SPDX-License-Identifier: Apache-2.0
//! Who a pid is and was: executable, arguments and ancestors of every process,
//! from the kernel's events, and from /proc for what was there before them.
//!
//! Events are applied in the order of their times, so the table always is as it
//! was when the connect that is looked up was made.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::HashSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::rc::Rc;

use anyhow::Result;

use crate::event::Args;
use crate::event::Change;
use crate::event::Comm;
use crate::event::Connect;
use crate::event::Image;
use crate::event::MAX_ARGS;
use crate::event::ProcessEvent;

/// Dead ancestors that are kept. Only a chain of processes that fork and then
/// die has more, and it would grow without end.
const MAX_DEAD_ANCESTORS: usize = 64;

/// exec_id of a child whose parent did not fork it (CLONE_PARENT): it runs
/// another program than its parent.
const NOT_ITS_PARENTS: u32 = u32::MAX;

/// Where the facts about a process's program come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its own exec.
    Exec,
    /// It runs its parent's program.
    Fork,
    /// It was there before the tracer, or its exec was lost.
    Procfs,
    /// Its exec was lost, and it is gone.
    None,
}

impl Source {
    pub fn name(self) -> &'static str {
        match self {
            Source::Exec => "exec",
            Source::Fork => "fork",
            Source::Procfs => "procfs",
            Source::None => "none",
        }
    }
}

/// A process, dead or alive. Its ancestors live as long as it does.
#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    /// CLOCK_BOOTTIME, nanoseconds.
    pub start_ns: u64,
    /// The process that forked it; 0 if the kernel did.
    pub ppid: u32,
    parent: RefCell<Option<Rc<Process>>>,
    proc_pid: u32,
    state: RefCell<State>,
    dead: Cell<bool>,
}

/// What exec and rename change.
#[derive(Clone, Debug)]
struct State {
    name: Comm,
    image: Rc<Image>,
    exec_id: u32,
    source: Source,
}

impl Process {
    pub fn name(&self) -> Comm {
        self.state.borrow().name
    }

    pub fn image(&self) -> Rc<Image> {
        Rc::clone(&self.state.borrow().image)
    }

    /// As it is now, whatever it runs later. Its ancestors do go on.
    pub fn frozen(&self) -> Self {
        let state = self.state.borrow().clone();
        let process = Self::with_state(self.pid, self.start_ns, self.ppid, self.proc_pid, state);
        process.parent.replace(self.parent.borrow().clone());
        process
    }

    /// In the pid namespace of this program.
    pub fn proc_pid(&self) -> u32 {
        self.proc_pid
    }

    pub fn source(&self) -> Source {
        self.state.borrow().source
    }

    /// Whether `ancestors` begins with the parent; the kernel's own first
    /// processes have none.
    pub fn has_known_parent(&self) -> bool {
        self.parent.borrow().is_some() || self.ppid == 0 && self.source() != Source::None
    }

    /// From the parent up.
    pub fn ancestors(&self) -> impl Iterator<Item = Rc<Process>> {
        let above = |process: &Process| process.parent.borrow().clone();
        std::iter::successors(above(self), move |process| above(process))
    }

    /// A child has its parent's exec_id, so another one means that the parent's
    /// last exec was lost. What /proc told of a parent has none.
    fn forked_as(&self, exec_id: u32) {
        let mut state = self.state.borrow_mut();
        if ![0, exec_id].contains(&state.exec_id) && exec_id != NOT_ITS_PARENTS {
            *state = unknown(state.name, exec_id);
        }
    }

    fn with_state(pid: u32, start_ns: u64, parent: u32, proc_pid: u32, state: State) -> Self {
        Process {
            pid,
            start_ns,
            ppid: parent,
            parent: RefCell::default(),
            proc_pid,
            state: RefCell::new(state),
            dead: Cell::new(false),
        }
    }
}

/// A long line of ancestors must not be dropped by recursion.
impl Drop for Process {
    fn drop(&mut self) {
        let mut next = self.parent.get_mut().take();
        while let Some(mut process) = next.and_then(|above| Rc::try_unwrap(above).ok()) {
            next = process.parent.get_mut().take();
        }
    }
}

/// All live processes, and the dead ones that have live descendants.
#[derive(Debug, Default)]
pub struct Processes {
    alive: HashMap<u32, Rc<Process>>,
}

impl Processes {
    /// From the kernel's lists before and after /proc is read: where they
    /// differ, /proc may have shown a later program than the first list means.
    pub fn scan(list: impl Fn() -> Result<Vec<ProcessEvent>>) -> Result<Self> {
        let before = list()?;
        let images: Vec<_> = before.iter().map(|e| image_of(e.proc_pid)).collect();
        let after: HashMap<_, _> =
            list()?.into_iter().map(|e| ((e.pid, e.start_ns), e.exec_id)).collect();
        let mut processes = Processes::default();
        processes.alive.reserve(before.len());
        for (e, image) in before.iter().zip(images) {
            let unchanged = after.get(&(e.pid, e.start_ns)) == Some(&e.exec_id);
            let image = image.filter(|_| unchanged);
            let state = State {
                name: e.name,
                source: if image.is_some() { Source::Procfs } else { Source::None },
                image: Rc::new(image.unwrap_or_default()),
                exec_id: e.exec_id,
            };
            let process = Process::with_state(e.pid, e.start_ns, e.parent, e.proc_pid, state);
            processes.alive.insert(e.pid, Rc::new(process));
        }
        for e in &before {
            let parent = (e.parent != 0).then(|| processes.parent(e));
            if let Some(process) = processes.same(e.pid, e.start_ns) {
                *process.parent.borrow_mut() = parent;
            }
        }
        Ok(processes)
    }

    pub fn len(&self) -> usize {
        self.alive.len()
    }

    pub fn is_empty(&self) -> bool {
        self.alive.is_empty()
    }

    pub fn apply(&mut self, event: &ProcessEvent) {
        match &event.change {
            Change::Fork => {
                self.born(event, None);
            }
            Change::Exec(image) => {
                let state = State {
                    name: event.name,
                    image: Rc::new(image.clone()),
                    exec_id: event.exec_id,
                    source: Source::Exec,
                };
                match self.same(event.pid, event.start_ns) {
                    Some(process) => *process.state.borrow_mut() = state,
                    None => self.born(event, Some(state)),
                }
            }
            Change::Rename(comm) => {
                let process = self.same(event.pid, event.start_ns);
                if let Some(process) = process.filter(|_| event.tid == event.pid) {
                    process.state.borrow_mut().name = *comm;
                }
            }
            Change::Exit(_) => {
                if let Some(process) = self.same(event.pid, event.start_ns) {
                    process.dead.set(true);
                    self.alive.remove(&event.pid);
                }
            }
        }
    }

    /// The live process of this number.
    pub fn now(&self, pid: u32) -> Option<Rc<Process>> {
        self.alive.get(&pid).cloned()
    }

    fn same(&self, pid: u32, start_ns: u64) -> Option<&Rc<Process>> {
        self.alive.get(&pid).filter(|process| process.start_ns == start_ns)
    }

    /// Without a state of its own it runs its parent's program.
    fn born(&mut self, event: &ProcessEvent, state: Option<State>) {
        let parent = (event.parent != 0).then(|| self.parent(event));
        let state = state.unwrap_or_else(|| {
            if let Some(parent) = &parent {
                parent.forked_as(event.exec_id);
            }
            let inherited = parent.as_ref().map(|p| p.state.borrow().clone());
            match inherited.filter(|state| state.exec_id == event.exec_id) {
                Some(state) if state.source == Source::None => State { name: event.name, ..state },
                Some(state) => State { name: event.name, source: Source::Fork, ..state },
                None => unknown(event.name, event.exec_id),
            }
        });
        let process =
            Process::with_state(event.pid, event.start_ns, event.parent, event.proc_pid, state);
        if let Some(parent) = parent {
            forget_the_oldest(&parent);
            *process.parent.borrow_mut() = Some(parent);
        }
        self.alive.insert(event.pid, Rc::new(process));
    }

    /// From /proc if its own fork was lost, or the kernel has not listed it: on
    /// one machine's 6.18 the list lacks pid 1.
    fn parent(&mut self, event: &ProcessEvent) -> Rc<Process> {
        if let Some(parent) = self.same(event.parent, event.parent_start_ns) {
            return Rc::clone(parent);
        }
        self.found_late(event.parent, event.parent_start_ns, None)
    }

    fn found_late(&mut self, pid: u32, start_ns: u64, connect: Option<&Connect>) -> Rc<Process> {
        let late = Rc::new(found_late(pid, start_ns, connect));
        if late.source() == Source::Procfs {
            self.link(&late);
            self.alive.insert(pid, Rc::clone(&late));
        }
        late
    }

    /// To its parent as /proc has just told it.
    fn link(&self, late: &Process) {
        let parent = self.now(late.ppid).filter(|p| p.start_ns <= late.start_ns);
        *late.parent.borrow_mut() = parent;
    }

    /// The process behind a connect. One whose fork or exec was lost is looked
    /// for in /proc.
    pub fn of(&mut self, connect: &Connect) -> Rc<Process> {
        if let Some(process) = self.same(connect.pid, connect.start_ns) {
            if process.state.borrow().exec_id == connect.exec_id {
                return Rc::clone(process);
            }
            let late = found_late(connect.pid, connect.start_ns, Some(connect));
            let state = late.state.borrow().clone();
            *process.state.borrow_mut() = state;
            return Rc::clone(process);
        }
        self.found_late(connect.pid, connect.start_ns, Some(connect))
    }

    /// Drops those that are gone, for when their exits were lost.
    pub fn sweep(&mut self) {
        self.alive.retain(|_, process| {
            let alive = is_alive(process.proc_pid, process.start_ns);
            process.dead.set(!alive);
            alive
        });
    }
}

fn unknown(name: Comm, exec_id: u32) -> State {
    State { name, image: Rc::default(), exec_id, source: Source::None }
}

fn forget_the_oldest(parent: &Rc<Process>) {
    let mut dead = 0;
    let mut at = Rc::clone(parent);
    loop {
        dead += usize::from(at.dead.get());
        if dead >= MAX_DEAD_ANCESTORS {
            *at.parent.borrow_mut() = None;
            return;
        }
        let Some(above) = at.parent.borrow().clone() else { return };
        at = above;
    }
}

/// Who this process is now, if it still is that process.
fn found_late(pid: u32, start_ns: u64, connect: Option<&Connect>) -> Process {
    let is_it = |stat: &Stat| stat.is(start_ns);
    let stat = stat_of(pid).filter(is_it);
    let image = stat.as_ref().and_then(|_| image_of(pid));
    // Only if it lives on is what was read in between its own.
    let image = image.filter(|_| stat_of(pid).as_ref().is_some_and(is_it));
    let name =
        connect.map_or_else(|| stat.as_ref().map(|s| s.name).unwrap_or_default(), |c| c.leader);
    let state = State {
        name,
        source: if image.is_some() { Source::Procfs } else { Source::None },
        image: Rc::new(image.unwrap_or_default()),
        exec_id: connect.map_or(0, |c| c.exec_id),
    };
    let parent = stat.map_or(0, |stat| stat.parent);
    Process::with_state(pid, start_ns, parent, pid, state)
}

/// Executable and arguments of a live process. A kernel thread has neither.
fn image_of(pid: u32) -> Option<Image> {
    const DELETED: &[u8] = b" (deleted)";
    let mut args = Vec::new();
    let cmdline = fs::File::open(format!("/proc/{pid}/cmdline")).ok()?;
    cmdline.take(MAX_ARGS as u64 + 1).read_to_end(&mut args).ok()?;
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let exe = exe.map(|path| path.into_os_string().into_vec());
    // A file can have such a name, too.
    let unlinked = || fs::metadata(format!("/proc/{pid}/exe")).is_ok_and(|m| m.nlink() == 0);
    let exe_deleted = exe.as_ref().is_some_and(|path| path.ends_with(DELETED)) && unlinked();
    let exe = exe.map(|mut path| {
        path.truncate(path.len() - if exe_deleted { DELETED.len() } else { 0 });
        path.into_boxed_slice()
    });
    Some(Image { exe, exe_deleted, args: Some(Args::new(&args)) })
}

/// Every live descendant of these processes; the processes themselves excluded.
pub fn descendants(roots: &[u32]) -> HashSet<u32> {
    closure(roots, &parents())
}

/// Whether this very process lives; `start_ns` is a CLOCK_BOOTTIME.
pub fn is_alive(pid: u32, start_ns: u64) -> bool {
    stat_of(pid).is_some_and(|stat| stat.is(start_ns))
}

/// Whether a process has this pid now.
pub fn exists(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok()
}

/// Parent of each live process.
fn parents() -> HashMap<u32, u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, stat_of(pid)?.parent))).collect()
}

/// Of /proc/PID/stat.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: Comm,
    parent: u32,
    /// Since boot, in units of 10 ms.
    start: u64,
}

impl Stat {
    fn is(&self, start_ns: u64) -> bool {
        /// USER_HZ is 100 on every architecture we know.
        const TICK_NS: u64 = 10_000_000;
        self.start == start_ns / TICK_NS
    }
}

fn stat_of(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The second field is the comm, in parentheses, and may itself hold blanks,
/// parentheses and any other byte.
fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let begin = stat.iter().position(|&b| b == b'(')? + 1;
    let end = stat.iter().rposition(|&b| b == b')')?;
    let name = Comm::new(stat.get(begin..end)?);
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    Some(Stat { name, parent, start: fields.nth(17)?.parse().ok()? })
}

fn closure(roots: &[u32], parents: &HashMap<u32, u32>) -> HashSet<u32> {
    let mut found = HashSet::new();
    for &pid in parents.keys() {
        let mut chain = vec![pid];
        let mut at = pid;
        // A chain longer than the table would be a loop; /proc is not read at one instant.
        while let Some(&parent) = parents.get(&at)
            && chain.len() <= parents.len()
        {
            if roots.contains(&parent) || found.contains(&parent) {
                found.extend(chain);
                break;
            }
            chain.push(parent);
            at = parent;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comm_with_parentheses_does_not_hide_the_parent() {
        let stat = b"7 (a) R 9 (\xff) S 42 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 3141 0 0";
        let name = Comm(*b"a) R 9 (\xff\0\0\0\0\0\0\0");
        assert_eq!(parse_stat(stat), Some(Stat { name, parent: 42, start: 3141 }));
        assert_eq!(parse_stat(b"7 (cat"), None);
        assert_eq!(parse_stat(b"7 )cat("), None);
    }

    #[test]
    fn descendants_of_any_depth_are_found_and_strangers_are_not() {
        let parents = HashMap::from([(1, 0), (10, 1), (11, 10), (12, 11), (20, 1)]);
        assert_eq!(closure(&[10], &parents), HashSet::from([11, 12]));
    }

    #[test]
    fn a_loop_ends() {
        let parents = HashMap::from([(5, 6), (6, 5)]);
        assert_eq!(closure(&[10], &parents), HashSet::new());
    }

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

    /// Executable and source of the process that connects.
    fn who(processes: &mut Processes, pid: u32, start_ns: u64, exec_id: u32) -> (String, Source) {
        let connect = Connect { pid, start_ns, exec_id, ..Connect::nowhere() };
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
        let connect = Connect { pid: 8, start_ns: 80, exec_id: 2, ..Connect::nowhere() };
        let process = processes.of(&connect);
        let ancestors: Vec<_> = process.ancestors().map(|p| p.pid).collect();
        assert_eq!((process.ppid, ancestors), (7, vec![7, 1]));
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

    #[test]
    fn a_chain_of_dead_ancestors_has_an_end() {
        let mut processes = table(&[]);
        let mut parent = (1, 1);
        for i in 2..100_000 {
            let child = (i, u64::from(i));
            processes.apply(&forked(child.0, child.1, parent, 1));
            if parent.0 != 1 {
                processes.apply(&event(parent.0, parent.1, 1, Change::Exit(0)));
            }
            parent = child;
        }
        let last = processes.now(parent.0).unwrap();
        // One more, for the parent was alive when its child was born.
        assert_eq!((processes.len(), last.ancestors().count()), (2, MAX_DEAD_ANCESTORS + 1));
    }
}
