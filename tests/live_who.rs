// SPDX-License-Identifier: Apache-2.0
//! Who made the connect, on a real kernel: program, arguments, parents and
//! container of processes that are born, exec, rename and die in every way.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;

use chrono::DateTime;
use chrono::TimeDelta;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use super::Cells;
use super::Tests;
use super::lab;
use super::lab::Cgroup;
use super::lab::Client;
use super::lab::Done;
use super::lab::Lab;
use super::lab::Tracer;
use super::lab::scaled;
use super::lab::tcpconnect;

pub const TESTS: &Tests = &[
    (
        Cells::PerfOnce,
        &tests![
            a_thousand_short_lives_each_have_their_own_facts,
            a_thousand_orphans_each_have_their_own_dead_parent,
            an_exec_storm_loses_no_connect_and_tells_no_wrong_program,
            each_of_the_nine_process_events_is_told,
            an_exit_tells_what_wait_does,
            a_connect_stands_between_the_events_of_its_process,
        ],
    ),
    (
        Cells::OneBuffer,
        &tests![
            a_process_from_before_the_tracer_is_told_from_procfs,
            an_executable_unlinked_before_the_tracer_is_marked_deleted,
            a_path_that_looks_deleted_is_not,
            a_path_of_many_parts_is_whole_with_either_loop,
            a_user_is_named_after_setuid_and_in_a_setuid_program,
            a_process_in_its_own_namespaces_has_their_path_and_pid,
            arguments_are_exact_whatever_they_hold,
            one_of_many_that_were_asleep_is_told,
            a_gone_command_has_both_its_shells_in_the_table,
            a_container_passes_under_every_runtimes_name_also_when_restarted,
            a_container_passes_by_its_name,
            a_unit_passes_also_when_restarted,
            container_and_cgroup_are_shown_though_both_are_gone,
            a_cgroup_whose_making_was_lost_is_found_later,
            pids_are_those_of_the_tracers_pid_namespace,
            a_command_is_told_in_the_tracers_pid_namespace,
            no_program_is_loaded_that_is_not_asked_for,
            programs_are_relocated_by_the_types_that_they_read,
        ],
    ),
];

type SharedTest = fn(&Shared);

/// Those that one tracer can do for all: emulated, its start takes longer than
/// most of them.
pub const SHARED: [(&str, SharedTest); 15] = tests![
    a_forked_process_runs_its_parents_program,
    every_exec_of_a_process_is_a_new_program,
    an_exec_from_another_thread_is_the_processs_program,
    vforked_and_spawned_programs_are_told,
    a_script_shows_its_interpreter_and_its_own_path,
    a_program_in_memory_is_marked_deleted,
    an_executable_unlinked_before_exec_is_marked_deleted,
    an_executable_unlinked_after_exec_is_marked_deleted,
    renames_show_in_the_parents,
    a_parent_that_died_before_the_connect_is_shown,
    a_parent_that_died_before_the_exec_is_shown,
    a_reused_pid_is_another_process,
    a_dead_parent_is_not_taken_for_the_next_with_its_pid,
    a_path_below_a_chroot_is_the_mount_namespaces,
    arguments_rewritten_later_do_not_change_the_row,
];

/// The client's executable as the kernel names it.
pub fn program() -> String {
    let path = fs::canonicalize(lab::client()).expect("the client is built");
    path.into_os_string().into_string().expect("UTF-8")
}

fn who(lab: &Lab, client: &Client) -> Tracer {
    lab.trace(&["-j", "--exe", "--args", "--parents", "--netns", &client.netns()])
}

/// A pid and what is above it up to pid 1, from /proc.
pub fn lineage(pid: u32) -> Vec<Value> {
    let of = |pid: u32, name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    let mut found = Vec::new();
    let mut at = pid;
    while at != 0 {
        let comm = of(at, "comm").expect("it lives");
        let exe = fs::read_link(format!("/proc/{at}/exe")).ok();
        let exe =
            exe.map(|exe| PathBuf::from(exe.to_string_lossy().trim_end_matches(" (deleted)")));
        found.push(relative(at, comm.trim_end_matches('\n'), exe.as_deref()));
        let status = of(at, "status").expect("it lives");
        let parent = status.lines().find_map(|l| l.strip_prefix("PPid:\t")).expect("a parent");
        at = parent.parse().expect("a pid");
    }
    found
}

/// One of `parents`, but for its start.
fn relative(pid: u32, comm: &str, exe: Option<&Path>) -> Value {
    let mut object = json!({"pid": pid, "comm": comm});
    if let Some(exe) = exe {
        object["exe"] = exe.to_str().expect("UTF-8").into();
    }
    object
}

/// What a line of the client says, as one of `parents`.
fn relative_of(attempt: &Value) -> Value {
    json!({"pid": attempt["pid"], "comm": attempt["comm"], "exe": attempt["exe"]})
}

fn above(first: Value, rest: &[Value]) -> Vec<Value> {
    [&[first], rest].concat()
}

/// What a row must tell of a process, see `told`.
fn facts<A: AsRef<str>>(exe: &str, args: &[A], source: &str, parents: &[Value]) -> Value {
    json!({
        "exe": exe,
        "exe_deleted": false,
        "args": args.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        "args_truncated": false,
        "source": source,
        "ppid": parents[0]["pid"],
        "parents": parents,
    })
}

fn deleted(mut facts: Value) -> Value {
    facts["exe_deleted"] = true.into();
    facts
}

/// The facts of a row but those that are times, which are checked to be possible.
fn told(row: &Value) -> Value {
    let time =
        |v: &Value| DateTime::parse_from_rfc3339(v.as_str().expect("a time")).expect("RFC 3339");
    let mut told = json!({});
    for name in ["exe", "exe_deleted", "args", "args_truncated", "source", "ppid", "parents"] {
        told[name] = row[name].clone();
    }
    let mut younger = time(&row["start"]);
    // The clocks are read at different times, and the wall clock may be slewed.
    assert!(younger <= time(&row["time"]) + TimeDelta::seconds(1), "{row:#}");
    for parent in told["parents"].as_array_mut().expect("an array") {
        let parent = parent.as_object_mut().expect("an object");
        let start = time(&parent.remove("start").expect("a start"));
        let mntns = parent.remove("exe_mntns");
        let exe = parent.get("exe").and_then(Value::as_str);
        let has_none = exe.is_none_or(|exe| exe.starts_with("/memfd:"));
        assert!(mntns.is_some() || has_none, "{row:#}");
        assert!(start <= younger, "{row:#}");
        younger = start;
    }
    let id = row["process_id"].as_str().expect("an id");
    let (pid, start) = id.split_once('-').expect("pid and start");
    assert_eq!(pid, row["pid"].to_string());
    assert!(start.parse::<u64>().is_ok(), "{id}");
    told
}

/// The only row; nothing was lost.
fn only_row(done: &Done) -> Value {
    done.assert_quiet_success();
    only(done.rows())
}

fn only(mut rows: Vec<Value>) -> Value {
    assert_eq!(rows.len(), 1, "{rows:#?}");
    rows.remove(0)
}

/// Traces one `act` of a new client: what the client said, the row, and the
/// client with its ancestors.
fn acted(shared: &Shared, steps: &str) -> (Vec<Value>, Value, Vec<Value>) {
    let mut client = Client::new();
    let watch = shared.watch(&client);
    let said = client.case(&format!("act {steps}"));
    (said, only(watch.rows()), lineage(client.pid()))
}

/// A tracer of all connects, for several tests.
pub struct Shared {
    tracer: Tracer,
    marker: Mutex<(Client, u16)>,
}

impl Shared {
    pub fn new(lab: &Lab) -> Self {
        let tracer = lab.trace(&["-j", "--exe", "--args", "--parents"]);
        Shared { tracer, marker: Mutex::new((Client::new(), 0)) }
    }

    /// Begins to look at what this client does.
    fn watch(&self, client: &Client) -> Watch<'_> {
        let from = self.up_to_now(0).0;
        Watch { shared: self, netns: client.facts["netns"].clone(), from }
    }

    /// The rows written from this byte on, and where they end. They come in the
    /// order of their connects, so all are there once that of a connect made here is.
    fn up_to_now(&self, from: usize) -> (usize, Vec<Value>) {
        let mut marker = self.marker.lock().expect("no holder panics");
        let (client, port) = &mut *marker;
        *port += 1;
        client.knock(*port);
        for _ in 0..10_000 {
            let text = self.tracer.stdout();
            let end = text.rfind('\n').map_or(from, |i| i + 1);
            let parse = |line| serde_json::from_str(line).expect("a line is one object");
            let rows: Vec<Value> = text[from..end].lines().map(parse).collect();
            let is_marker = |r: &Value| r["netns"] == client.facts["netns"] && r["dport"] == *port;
            if rows.iter().any(is_marker) {
                assert_eq!(self.tracer.stderr(), "");
                return (end, rows);
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("the row of the marker does not come: {}", self.tracer.stderr());
    }
}

struct Watch<'a> {
    shared: &'a Shared,
    netns: Value,
    from: usize,
}

impl Watch<'_> {
    fn rows(self) -> Vec<Value> {
        let rows = self.shared.up_to_now(self.from).1.into_iter();
        rows.filter(|row| row["netns"] == self.netns).collect()
    }
}

/// A folder whose files anyone may run.
pub fn open_dir() -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let path = fs::canonicalize(dir.path()).expect("it is there");
    (dir, path.into_os_string().into_string().expect("UTF-8"))
}

pub fn copy_of(program: impl AsRef<Path>, to: &str) -> String {
    fs::copy(program, to).expect("a copy");
    to.to_owned()
}

fn busybox() -> PathBuf {
    let dirs = ["/bin", "/usr/bin"];
    let paths = dirs.map(|dir| Path::new(dir).join("busybox"));
    paths.into_iter().find(|path| path.exists()).expect("busybox is installed")
}

pub fn quiet(mut command: Command) -> Child {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("it starts")
}

/// Until it and all that have its output have ended.
fn end(mut child: Child) {
    let mut said = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut said).expect("readable");
    child.wait().expect("our child");
    assert!(!said.contains("\"error\""), "{said}");
}

/// The rows of a swarm by the number of the process; what the client said; and
/// the client with its ancestors. Connects may be lost only by these two hooks,
/// see `CaseRun`; facts by none.
fn swarm(lab: &Lab, steps: &str) -> (Vec<(usize, Value)>, Value, Vec<Value>) {
    let mut client = Client::new();
    let made = scaled(1000).max(50);
    let tracer = who(lab, &client);
    let said = client.case(&format!("swarm {made} 50 {steps}")).remove(0);
    let parents = lineage(client.pid());
    let done = tracer.stop();
    let can_lose = ["fentry", "kprobe"].contains(&&*lab.attach);
    let lost = done.lost("count");
    assert!(lost == 0 || can_lose, "{}", done.stderr);
    let losses = done.objects("lost");
    assert!(losses.iter().all(|l| l["process"].is_null()), "{}", done.stderr);
    let number = |row: &Value| -> Option<usize> {
        let last = row["args"].as_array()?.last()?.as_str()?;
        last.strip_prefix("tag=")?.parse().ok()
    };
    let number = |row| (number(&row).unwrap_or_else(|| panic!("{row:#}")), row);
    let mut rows: Vec<_> = done.rows().into_iter().map(number).collect();
    assert_eq!(rows.len() as u64 + lost, made, "{}", done.stderr);
    rows.sort_by_key(|(i, _)| *i);
    assert!(rows.windows(2).all(|two| two[0].0 < two[1].0), "a process has two rows");
    (rows, said, parents)
}

fn a_thousand_short_lives_each_have_their_own_facts(lab: &Lab) {
    let (rows, said, parents) = swarm(lab, "tap=81");
    let exe = program();
    for (i, row) in rows {
        assert_eq!(row["pid"], said["pids"][i], "{row:#}");
        let args = [&exe, "--act", "tap=81", &format!("tag={i}")].map(str::to_owned);
        assert_eq!(told(&row), facts(&exe, &args, "exec", &parents));
    }
}

fn a_thousand_orphans_each_have_their_own_dead_parent(lab: &Lab) {
    let (rows, said, parents) = swarm(lab, "name=gone orphan tap=81");
    let exe = program();
    for (i, row) in rows {
        let pid = said["pids"][i].as_u64().expect("a pid") as u32;
        let parents = above(relative(pid, "gone", Some(Path::new(&exe))), &parents);
        let tag = format!("tag={i}");
        let args = [&exe, "--act", "name=gone", "orphan", "tap=81", &tag].map(str::to_owned);
        assert_eq!(told(&row), facts(&exe, &args, "fork", &parents));
    }
}

fn a_process_from_before_the_tracer_is_told_from_procfs(lab: &Lab) {
    let mut client = Client::with(&["--netns"]);
    let tracer = who(lab, &client);
    client.knock(81);
    let row = only_row(&tracer.stop());
    let parents = lineage(client.pid()).split_off(1);
    let path = lab::client().into_os_string().into_string().expect("UTF-8");
    assert_eq!(told(&row), facts(&program(), &[&path, "--netns"], "procfs", &parents));
    assert_eq!(row["parents"].as_array().and_then(|p| p.last()).expect("parents")["pid"], 1);

    let stat = fs::read_to_string(format!("/proc/{}/stat", client.pid())).expect("it lives");
    let ticks: u64 = stat.split_whitespace().nth(21).expect("a start").parse().expect("a number");
    let id = row["process_id"].as_str().expect("an id");
    let start_ns: u64 = id.split_once('-').expect("a start").1.parse().expect("a number");
    assert_eq!(start_ns / 10_000_000, ticks);
}

fn an_executable_unlinked_before_the_tracer_is_marked_deleted(lab: &Lab) {
    let (_dir, path) = open_dir();
    let copy = copy_of(program(), &format!("{path}/gone"));
    let mut command = Command::new(&copy);
    command.arg("--netns");
    let mut client = Client::start(command);
    fs::remove_file(&copy).expect("it was there");
    let tracer = who(lab, &client);
    client.knock(81);
    let row = only_row(&tracer.stop());
    let parents = lineage(std::process::id());
    assert_eq!(told(&row), deleted(facts(&copy, &[&copy, "--netns"], "procfs", &parents)));
}

fn a_forked_process_runs_its_parents_program(shared: &Shared) {
    let (said, row, parents) = acted(shared, "knock=81");
    let path = lab::client().into_os_string().into_string().expect("UTF-8");
    assert_eq!(row["pid"], said[0]["pid"]);
    assert_eq!(told(&row), facts(&program(), &[&path, "--netns"], "fork", &parents));
}

fn every_exec_of_a_process_is_a_new_program(shared: &Shared) {
    let (_dir, path) = open_dir();
    let [a, b] = ["a", "b"].map(|name| copy_of(program(), &format!("{path}/{name}")));
    let mut client = Client::new();
    let watch = shared.watch(&client);
    let said = client
        .case(&format!("act knock=81 exec={a} knock=82 exec={b} knock=83 fork knock=84 tag=end"));
    let rows = watch.rows();
    let parents = lineage(client.pid());
    let original = lab::client().into_os_string().into_string().expect("UTF-8");
    let exec_b = format!("exec={b}");
    let of_a = ["client", "--act", "knock=82", &exec_b, "knock=83", "fork", "knock=84", "tag=end"];
    let of_b = ["client", "--act", "knock=83", "fork", "knock=84", "tag=end"];
    let expected = [
        facts(&program(), &[&original, "--netns"], "fork", &parents),
        facts(&a, &of_a, "exec", &parents),
        facts(&b, &of_b, "exec", &parents),
        facts(&b, &of_b, "fork", &above(relative_of(&said[2]), &parents)),
    ];
    assert_eq!(rows.iter().map(told).collect::<Vec<_>>(), expected);
    let ids: Vec<_> = rows.iter().map(|r| &r["process_id"]).collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2] && ids[2] != ids[3], "{ids:?}");
}

fn an_exec_from_another_thread_is_the_processs_program(shared: &Shared) {
    let exe = program();
    let (said, row, parents) =
        acted(shared, &format!("fork say thread exec={exe} thread knock=81"));
    let args = ["client", "--act", "thread", "knock=81"];
    // The child that says who it is, is the one that execs: its parent is the actor.
    let ppid = said[0]["ppid"].as_u64().expect("a pid") as u32;
    let parents = above(relative(ppid, "client", Some(Path::new(&exe))), &parents);
    assert_eq!(told(&row), facts(&exe, &args, "exec", &parents));
    assert_eq!((&row["pid"], &row["tid"]), (&said[0]["pid"], &said[1]["tid"]));
    assert_ne!(row["pid"], row["tid"]);
}

fn vforked_and_spawned_programs_are_told(shared: &Shared) {
    for case in ["vfork", "posix_spawn", "exec_child"] {
        let mut client = Client::new();
        let watch = shared.watch(&client);
        let said = client.case(case).remove(0);
        let row = only(watch.rows());
        let args: Vec<_> = said["args"].as_array().expect("an array").iter().collect();
        let args: Vec<_> = args.iter().map(|a| a.as_str().expect("a string")).collect();
        let expected = facts(&program(), &args, "exec", &lineage(client.pid()));
        assert_eq!((told(&row), &row["pid"]), (expected, &said["pid"]), "{case}");
    }
}

fn a_script_shows_its_interpreter_and_its_own_path(shared: &Shared) {
    let (_dir, path) = open_dir();
    // The first line of a script can have 127 bytes.
    let interpreter = copy_of(program(), &format!("{path}/i"));
    let script = format!("{path}/script");
    fs::write(&script, format!("#!{interpreter} --act\n")).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("ours");
    let (_, row, parents) = acted(shared, &format!("run {script} tap=81 tag=x"));
    let args = [&interpreter, "--act", &script, "tap=81", "tag=x"];
    assert_eq!(told(&row), facts(&interpreter, &args, "exec", &parents));
    assert_eq!(row["comm"], "script");
}

fn a_program_in_memory_is_marked_deleted(shared: &Shared) {
    let (said, row, parents) = acted(shared, "memfd=hidden knock=81");
    let args = ["client", "--act", "knock=81"];
    assert_eq!(said[0]["exe"], "/memfd:hidden (deleted)");
    assert_eq!(told(&row), deleted(facts("/memfd:hidden", &args, "exec", &parents)));
}

fn an_executable_unlinked_before_exec_is_marked_deleted(shared: &Shared) {
    let (_dir, path) = open_dir();
    let copy = copy_of(program(), &format!("{path}/gone"));
    let (said, row, parents) = acted(shared, &format!("unlinked={copy} knock=81"));
    assert_eq!(said[0]["exe"], format!("{copy} (deleted)"));
    let expected = facts(&copy, &["client", "--act", "knock=81"], "exec", &parents);
    assert_eq!(told(&row), deleted(expected));
}

fn an_executable_unlinked_after_exec_is_marked_deleted(shared: &Shared) {
    let (_dir, path) = open_dir();
    let copy = copy_of(program(), &format!("{path}/gone"));
    let (mut client, steps) = (Client::new(), format!("knock=81 unlink={copy} knock=82"));
    let watch = shared.watch(&client);
    client.case(&format!("act exec={copy} {steps}"));
    let rows = watch.rows();
    let args: Vec<_> = ["client", "--act"].into_iter().chain(steps.split(' ')).collect();
    let before = facts(&copy, &args, "exec", &lineage(client.pid()));
    let rows: Vec<_> = rows.iter().map(told).collect();
    assert_eq!(rows, [before.clone(), deleted(before)]);
}

fn a_path_that_looks_deleted_is_not(lab: &Lab) {
    let (_dir, path) = open_dir();
    let copy = copy_of(program(), &format!("{path}/here (deleted)"));
    let mut command = Command::new(&copy);
    command.arg("--netns");
    let mut client = Client::start(command);
    let tracer = who(lab, &client);
    client.knock(81);
    client.case("exec_child connect 127.0.0.1 82");
    let done = tracer.stop();
    done.assert_quiet_success();
    let rows = done.rows();
    let shown: Vec<_> = rows.iter().map(|r| (&r["exe"], &r["exe_deleted"], &r["source"])).collect();
    let (exe, no) = (json!(copy), json!(false));
    assert_eq!(shown, [(&exe, &no, &json!("procfs")), (&exe, &no, &json!("exec"))]);
}

/// Another network namespace does not tell whether programs are compiled: bpf_loop() is not
/// used there, as on kernels that have none.
fn a_path_of_many_parts_is_whole_with_either_loop(lab: &Lab) {
    let (_dir, path) = open_dir();
    let folder = format!("{path}{}", "/d".repeat(400));
    fs::create_dir_all(&folder).expect("folders");
    let copy = copy_of(program(), &format!("{folder}/program"));
    let mut command = Command::new(&copy);
    command.arg("--netns");
    let mut client = Client::start(command);
    let args = ["-j", "-x", "--netns", &client.netns()];
    let mut elsewhere = Command::new("unshare");
    elsewhere.arg("-n").arg(tcpconnect()).args(lab.words(&args));
    let tracers = [lab.trace(&args), Tracer::start(elsewhere, &args)];
    client.case("exec_child connect 127.0.0.1 82");
    for tracer in tracers {
        let row = only_row(&tracer.stop());
        assert_eq!((&row["exe"], &row["source"]), (&json!(copy), &json!("exec")), "{row:#}");
    }
}

fn renames_show_in_the_parents(shared: &Shared) {
    let mut client = Client::new();
    let watch = shared.watch(&client);
    let said = client.case("act name=first say name=second twice name=third knock=81");
    let mut rows = watch.rows();
    rows.sort_by_key(|row| row["pid"] == said[0]["pid"]);
    let parents = lineage(client.pid());
    let mut between = relative_of(&said[0]);
    between["comm"] = "second".into();
    let path = lab::client().into_os_string().into_string().expect("UTF-8");
    let of = |parents: &[Value]| facts(&program(), &[&path, "--netns"], "fork", parents);
    let expected = [of(&above(between, &parents)), of(&parents)];
    assert_eq!(rows.iter().map(told).collect::<Vec<_>>(), expected);
    assert!(rows.iter().all(|row| row["comm"] == "third"), "{rows:#?}");
}

fn a_user_is_named_after_setuid_and_in_a_setuid_program(lab: &Lab) {
    let (_dir, path) = open_dir();
    let copy = copy_of(program(), &format!("{path}/setuid"));
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).expect("ours");
    let mut client = Client::new();
    let args = ["-j", "--user", "-x", "-a", "--parents", "--netns", &client.netns()];
    let tracer = lab.trace(&args);
    client.case(&format!("act knock=81 uid=65534 knock=82 exec={copy} knock=83"));
    let done = tracer.stop();
    done.assert_quiet_success();
    let rows = done.rows();
    let users: Vec<_> = rows.iter().map(|row| (&row["user"], &row["uid"])).collect();
    let (root, nobody) = ((&json!("root"), &json!(0)), (&json!("nobody"), &json!(65534)));
    assert_eq!(users, [root, nobody, nobody]);
    let args = ["client", "--act", "knock=83"];
    assert_eq!(told(&rows[2]), facts(&copy, &args, "exec", &lineage(client.pid())));
}

fn a_parent_that_died_before_the_connect_is_shown(shared: &Shared) {
    let exe = program();
    let steps = format!("exec={exe} name=middle say orphan knock=81");
    let (said, row, parents) = acted(shared, &steps);
    let args = ["client", "--act", "name=middle", "say", "orphan", "knock=81"];
    let parents = above(relative_of(&said[0]), &parents);
    assert_eq!(told(&row), facts(&exe, &args, "fork", &parents));
    assert_ne!(row["ppid"], said[1]["ppid"], "it has another parent by now");
}

fn a_parent_that_died_before_the_exec_is_shown(shared: &Shared) {
    let exe = program();
    let steps = format!("name=outer say fork name=inner say orphan exec={exe} knock=81");
    let (said, row, parents) = acted(shared, &steps);
    let parents = above(relative_of(&said[0]), &parents);
    let parents = above(relative_of(&said[1]), &parents);
    assert_eq!(told(&row), facts(&exe, &["client", "--act", "knock=81"], "exec", &parents));
    assert_ne!(row["ppid"], said[2]["ppid"], "it has another parent by now");
}

/// Somebody else may get the number in between; then all is done again.
fn until_the_number_is_free<T>(mut attempt: impl FnMut() -> Result<T, String>) -> T {
    for _ in 0..50 {
        match attempt() {
            Ok(done) => return done,
            Err(e) => assert!(e.contains("clone3: File exists"), "{e}"),
        }
    }
    panic!("the number is never free");
}

fn a_reused_pid_is_another_process(shared: &Shared) {
    let (_dir, path) = open_dir();
    let [a, b] = ["a", "b"].map(|name| copy_of(program(), &format!("{path}/{name}")));
    let mut client = Client::new();
    let (rows, said) = until_the_number_is_free(|| {
        let watch = shared.watch(&client);
        let mut said = client.case(&format!("act exec={a} knock=81"));
        let pid = &said[0]["pid"].clone();
        for steps in [format!("exec={b} knock=82"), "knock=83".into()] {
            let (lines, error) = client.try_case(&format!("act pid={pid} {steps}"));
            if let Some(e) = error {
                return Err(e);
            }
            said.extend(lines);
        }
        Ok((watch.rows(), said))
    });
    assert_eq!(rows.len(), 3, "{rows:#?}");
    let (exe, parents) = (program(), lineage(client.pid()));
    let path = lab::client().into_os_string().into_string().expect("UTF-8");
    let actor = |i: usize| {
        let ppid = said[i]["ppid"].as_u64().expect("a pid") as u32;
        above(relative(ppid, "client", Some(Path::new(&exe))), &parents)
    };
    let expected = [
        facts(&a, &["client", "--act", "knock=81"], "exec", &parents),
        facts(&b, &["client", "--act", "knock=82"], "exec", &actor(1)),
        facts(&exe, &[&path, "--netns"], "fork", &actor(2)),
    ];
    assert_eq!(rows.iter().map(told).collect::<Vec<_>>(), expected);
    assert!(rows.iter().all(|row| row["pid"] == said[0]["pid"]), "{rows:#?}");
    let ids: Vec<_> = rows.iter().map(|row| &row["process_id"]).collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
}

fn a_dead_parent_is_not_taken_for_the_next_with_its_pid(shared: &Shared) {
    let exe = program();
    let mut client = Client::new();
    let (rows, dead, steps) = until_the_number_is_free(|| {
        let (_dir, path) = open_dir();
        let [orphaned, reused, over] =
            ["orphaned", "reused", "over"].map(|name| format!("{path}/{name}"));
        let watch = shared.watch(&client);
        let steps = format!("name=dead orphan make={orphaned} until={reused} tap=81 make={over}");
        let mut dead = client.beside(&exe);
        dead.arg("--act").args(steps.split(' '));
        let mut dead = quiet(dead);
        let pid = dead.id();
        dead.wait().expect("our child");
        while !fs::exists(&orphaned).unwrap_or(false) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let next = format!("act pid={pid} name=next tap=82 make={reused} until={over}");
        let (_, error) = client.try_case(&next);
        if error.is_some() {
            fs::write(&reused, "not so").expect("a file");
        }
        end(dead);
        error.map_or_else(|| Ok((watch.rows(), pid, steps)), Err)
    });
    assert_eq!((rows.len(), &rows[0]["dport"]), (2, &json!(82)), "{rows:#?}");
    assert_eq!(rows[0]["pid"], dead);
    let args: Vec<_> = [&*exe, "--act"].into_iter().chain(steps.split(' ')).collect();
    let dead = relative(dead, "dead", Some(Path::new(&exe)));
    let parents = above(dead, &lineage(std::process::id()));
    assert_eq!(told(&rows[1]), facts(&exe, &args, "fork", &parents));
}

fn a_path_below_a_chroot_is_the_mount_namespaces(shared: &Shared) {
    let (_dir, path) = open_dir();
    fs::create_dir(format!("{path}/bin")).expect("a folder");
    let copy = copy_of(busybox(), &format!("{path}/bin/busybox"));
    let steps = format!("chroot={path} run /bin/busybox nc 127.0.0.1 81");
    let (_, row, parents) = acted(shared, &steps);
    let args = ["/bin/busybox", "nc", "127.0.0.1", "81"];
    assert_eq!(told(&row), facts(&copy, &args, "exec", &parents));
}

fn a_process_in_its_own_namespaces_has_their_path_and_pid(lab: &Lab) {
    let (_dir, path) = open_dir();
    copy_of(busybox(), &format!("{path}/program"));
    let mut client = Client::new();
    let netns = client.netns();
    let args = ["-j", "-x", "-a", "--parents", "--vpid", "--netns-id", "--netns", &netns];
    let tracer = lab.trace(&args);
    let said = client.case(&format!(
        "act namespaces say fork say root={path} run /opt/box/busybox nc 127.0.0.1 81"
    ));
    let row = only_row(&tracer.stop());
    let parents = above(relative_of(&said[0]), &lineage(client.pid()));
    let args = ["/opt/box/busybox", "nc", "127.0.0.1", "81"];
    assert_eq!(told(&row), facts("/opt/box/busybox", &args, "exec", &parents));
    assert_eq!((&row["pid"], &row["vpid"]), (&said[1]["pid"], &json!(1)));
    assert_eq!(row["netns"].to_string(), netns);
    let fork = lab.trace(&["-j", "--vpid", "--netns", &netns]);
    client.knock(82);
    let row = only_row(&fork.stop());
    assert_eq!((&row["vpid"], &row["source"]), (&json!(client.pid()), &json!("procfs")));
}

/// As the tracer is to show them: the first 4,096 bytes.
fn shown(args: &[&[u8]]) -> (Value, bool) {
    let mut bytes: Vec<u8> = args.iter().flat_map(|arg| [arg, &b"\0"[..]].concat()).collect();
    let truncated = bytes.len() > 4096;
    bytes.truncate(4096);
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    let words = bytes.split(|&b| b == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    (words.collect(), truncated)
}

fn arguments_are_exact_whatever_they_hold(lab: &Lab) {
    let (_dir, path) = open_dir();
    let exe = program();
    // Of the same length for each: what is left for arguments depends on it.
    let go = |i: usize| format!("{path}/go-{i:02}");
    let until = format!("until={}", go(0));
    let own = [exe.as_bytes(), b"--act", until.as_bytes(), b"tap=81", b"end"];
    let own_len: usize = own.iter().map(|word| word.len() + 1).sum();
    let long = vec![b'l'; 100_000];
    let cases: [Vec<&[u8]>; 9] = [
        vec![],
        vec![b"two words", b" ", b"a\ttab"],
        vec![b"line\nline\n", b"\r", b"\x1b[31m", b"\"'\\$`"],
        vec![b"\xff\xfe", b"caf\xe9", b"\xc3\xa9", b"\xe2\x82"],
        vec![b"", b"", b"between", b""],
        vec![&long, b"after"],
        vec![&long[..4096 - own_len - 1]],
        vec![&long[..4096 - own_len]],
        vec![b"w"; 4000],
    ];
    let client = Client::new();
    let start = |i: usize| {
        let mut command = client.beside(&exe);
        let until = format!("until={}", go(i));
        command.args(["--act", &until, "tap=81", "end"]);
        command.args(cases[i % cases.len()].iter().map(|word| OsStr::from_bytes(word)));
        quiet(command)
    };
    let mut started: Vec<_> = (0..cases.len()).map(start).collect();
    let tracer = who(lab, &client);
    started.extend((cases.len()..2 * cases.len()).map(start));
    let pids: Vec<_> = started.iter().map(Child::id).collect();
    for (i, child) in started.into_iter().enumerate() {
        fs::write(go(i), "now").expect("a file");
        end(child);
    }
    let done = tracer.stop();
    done.assert_quiet_success();
    let rows = done.rows();
    assert_eq!(rows.len(), 2 * cases.len());
    let parents = lineage(std::process::id());
    for (i, pid) in pids.into_iter().enumerate() {
        let row = rows.iter().find(|row| row["pid"] == pid).expect("a row");
        let source = if i < cases.len() { "procfs" } else { "exec" };
        let mut expected = facts::<&str>(&exe, &[], source, &parents);
        let until = format!("until={}", go(i));
        let mut words = [&own[..], &cases[i % cases.len()]].concat();
        words[2] = until.as_bytes();
        let (args, truncated) = shown(&words);
        expected["args"] = args;
        expected["args_truncated"] = truncated.into();
        assert_eq!(told(row), expected, "{source} {}", i % cases.len());
    }
}

fn arguments_rewritten_later_do_not_change_the_row(shared: &Shared) {
    let exe = program();
    let (said, row, parents) = acted(shared, &format!("exec={exe} rewrite say knock=81"));
    let args = ["client", "--act", "rewrite", "say", "knock=81"];
    let cmdline = said[1]["args"][0].as_str().expect("a string");
    assert!(cmdline.starts_with('x'), "{cmdline}");
    assert_eq!(told(&row), facts(&exe, &args, "exec", &parents));
}

fn one_of_many_that_were_asleep_is_told(lab: &Lab) {
    let (_dir, path) = open_dir();
    let go = format!("{path}/go");
    let made = scaled(2000).max(100) as usize;
    let mut client = Client::new();
    let said = client.case(&format!("herd {made} until={go} tap=81"));
    let tracer = who(lab, &client);
    fs::write(&go, "now").expect("a file");
    tracer.wait_for_rows(1);
    let row = only_row(&tracer.stop());
    let (exe, tag) = (program(), format!("tag={}", made / 2));
    let args = [&exe, "--act", &format!("until={go}"), "tap=81", &tag].map(str::to_owned);
    assert_eq!(told(&row), facts(&exe, &args, "procfs", &lineage(client.pid())));
    assert_eq!(row["pid"], said[0]["pids"][made / 2]);
}

fn an_exec_storm_loses_no_connect_and_tells_no_wrong_program(lab: &Lab) {
    let (_dir, path) = open_dir();
    let [go, over] = ["go", "over"].map(|name| format!("{path}/{name}"));
    let (exe, pad) = (program(), "p".repeat(4096));
    let mut client = Client::new();
    let mut other = {
        let mut command = client.beside(&exe);
        command.arg("--inside");
        Client::start(command)
    };
    // The buffer has room for all the connects and not for so many programs. In the ring
    // both take this user's share, of which programs leave the less the more of them other
    // users run meanwhile, up to a quarter of the ring.
    let bytes = if lab.buffer == "perf" { "64K" } else { "256K" };
    let args = ["-j", "--exe", "--args", "--parents", "--buffer-size", bytes];
    let tracer = lab.trace(&[&args[..], &["--netns", &client.netns()]].concat());
    tracer.signal(libc::SIGSTOP);
    let swarmed = client.case(&format!("swarm 50 1 tag={pad} tap=81"));
    let late = {
        let mut command = client.beside(&exe);
        command.args(["--act", &format!("until={go}"), "tap=82", &format!("until={over}")]);
        quiet(command)
    };
    for _ in 0..50 {
        other.knock(83);
    }
    tracer.signal(libc::SIGCONT);
    tracer.wait_for_rows(100);
    let late_pid = late.id();
    fs::write(&go, "now").expect("a file");
    tracer.wait_for_rows(101);
    fs::write(&over, "now").expect("a file");
    end(late);
    let done = tracer.stop();
    assert!(done.status.success(), "{done:?}");
    let lost = done.lost("count");
    let rows = done.rows();
    assert_eq!((rows.len(), lost), (101, 0), "{}", done.stderr);
    let said = |l: &str| -> Option<u64> {
        let l = l.strip_prefix("tcpconnect: ")?;
        l.strip_suffix(" records of processes lost; their rows say less")?.parse().ok()
    };
    let processes: u64 = done.stderr.lines().filter_map(said).sum();
    assert!(processes > 0 && processes == done.lost("process"), "{done:?}");

    let parents = lineage(client.pid());
    let row_of =
        |pid: &Value| rows.iter().filter(|row| row["pid"] == *pid).collect::<Vec<&Value>>();
    let mut unknown = 0;
    for (i, pid) in swarmed[0]["pids"].as_array().expect("pids").iter().enumerate() {
        let row = row_of(pid)[0];
        match row["source"].as_str() {
            Some("none") => {
                unknown += 1;
                assert_eq!((&row["exe"], &row["args"]), (&Value::Null, &Value::Null), "{row:#}");
            }
            source => {
                assert_eq!(source, Some("exec"), "{row:#}");
                let tag = format!("tag={i}");
                let words = [&exe, "--act", &format!("tag={pad}"), "tap=81", &tag];
                let (args, truncated) = shown(&words.map(|word| word.as_bytes()));
                assert_eq!((&row["exe"], &row["args"]), (&json!(exe), &args), "{row:#}");
                assert_eq!(row["args_truncated"], truncated);
                assert_eq!(told(row)["parents"], json!(parents));
            }
        }
    }
    assert!(unknown > 0, "nothing was lost");
    let late = row_of(&json!(late_pid))[0];
    let words = ["--act", &format!("until={go}"), "tap=82", &format!("until={over}")];
    let args = [&[&*exe], &words[..]].concat();
    // Each CPU has a perf buffer; that of this process may have had room.
    let source = match late["source"] == "exec" && lab.buffer == "perf" {
        true => "exec",
        false => "procfs",
    };
    assert_eq!(told(late), facts(&exe, &args, source, &lineage(std::process::id())));
    let others = row_of(&json!(other.pid()));
    assert_eq!(others.len(), 50);
    let own = facts(&exe, &[&exe, "--inside"], "procfs", &lineage(std::process::id()));
    assert!(others.iter().all(|row| told(row) == own), "{own:#} {:#}", others[0]);
}

fn a_gone_command_has_both_its_shells_in_the_table(lab: &Lab) {
    let client = Client::new();
    let tracer = lab.trace(&["--wide", "--netns", &client.netns()]);
    // What follows keeps a shell from becoming the program itself.
    let inner = format!("echo $$; {} --act tap=81; true", program());
    let mut command = client.beside("sh");
    command.args(["-c", "echo $$; sh -c \"$0\"; true", &inner.replace("$$", "$PPID $$")]);
    let output = command.stdin(Stdio::null()).output().expect("sh runs");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    let pids: Vec<&str> = said.split_whitespace().collect();
    let done = tracer.stop();
    done.assert_quiet_success();
    let header = done.stdout.lines().nth(1).expect("a header");
    for name in ["TIME", "UID", "LPORT", "EXE", "ARGS", "PARENTS"] {
        assert!(header.split_whitespace().any(|word| word == name), "{header}");
    }
    let rows = done.table();
    assert_eq!(rows.len(), 1, "{done:?}");
    let [outer, inner] = [pids[0], pids[2]];
    let parents = format!(" sh({inner}) < sh({outer}) < ");
    let top_and_args = format!("(1) {} --act tap=81", program());
    assert!(rows[0].contains(&parents), "{pids:?} {rows:?}");
    assert!(rows[0].ends_with(&top_and_args), "{rows:?}");
}

/// 64 digits that no other container has, in this run or another.
pub fn new_id() -> String {
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:08x}{n:08x}{}", std::process::id(), "4f8a1c6b2d3e".repeat(4))
}

fn cgroup_tracer(lab: &Lab, client: &Client, filter: &[&str]) -> Tracer {
    let args = ["-j", "--container-id", "--cgroup-path", "--netns", &client.netns()];
    lab.trace(&[&args[..], filter].concat())
}

/// Knocks outside, inside and below a directory of `outer`, with its path.
fn knock_in_and_out(client: &mut Client, outer: &Cgroup, name: &str) -> String {
    let cgroup = outer.inside(name);
    let below = cgroup.inside("below");
    client.knock(81);
    for (cgroup, port) in [(&cgroup, 82), (&below, 83), (outer, 84)] {
        cgroup.adopt(client.pid());
        client.knock(port);
    }
    let path = cgroup.path();
    // Within before without.
    drop(below);
    path
}

/// The rows that `knock_in_and_out` makes in a directory that passes.
fn inside(path: &str, container: &Value) -> [Value; 2] {
    let row = |port: u16, path: String| json!([port, path, container]);
    [row(82, path.to_owned()), row(83, format!("{path}/below"))]
}

fn places(done: &Done) -> Vec<Value> {
    done.assert_quiet_success();
    let rows = done.rows();
    rows.iter().map(|r| json!([r["dport"], r["cgroup"], r["container_id"]])).collect()
}

fn a_container_passes_under_every_runtimes_name_also_when_restarted(lab: &Lab) {
    let id = new_id();
    let mut names = [
        "docker-ID.scope",
        "cri-containerd-ID.scope",
        "crio-ID.scope",
        "libpod-ID.scope",
        "nerdctl-ID.scope",
        "libpod-ID",
        "ID",
    ]
    .map(|name| name.replace("ID", &id))
    .to_vec();
    names.push(names[0].clone());
    let outer = Cgroup::new(&format!("box-{}-{}", lab.attach, lab.buffer));
    let mut client = Client::new();
    let existing = outer.inside(&format!("cri-containerd-{id}.scope"));
    let tracer = cgroup_tracer(lab, &client, &["--container", &id[..18]]);
    existing.adopt(client.pid());
    client.knock(80);
    outer.adopt(client.pid());
    let existing_path = existing.path();
    drop(existing);
    let mut expected = vec![json!([80, existing_path, id])];
    for name in names.iter().chain(&[format!("docker-{}.scope", new_id())]) {
        let path = knock_in_and_out(&mut client, &outer, name);
        if name.contains(&id) {
            expected.extend(inside(&path, &json!(id)));
        }
    }
    assert_eq!(places(&tracer.stop()), expected);
    drop(client);
}

fn a_container_passes_by_its_name(lab: &Lab) {
    let outer = Cgroup::new(&format!("name-{}-{}", lab.attach, lab.buffer));
    let name = format!("web-{}", std::process::id());
    let _existing = outer.inside(&format!("pod{name}"));
    let mut client = Client::new();
    let tracer = cgroup_tracer(lab, &client, &["--container", &name]);
    let mut expected = Vec::new();
    for (directory, id) in [
        (format!("lxc.payload.{name}"), json!(name)),
        (format!("machine-{name}.scope"), json!(format!("machine-{name}"))),
        (name.clone(), Value::Null),
    ] {
        let path = knock_in_and_out(&mut client, &outer, &directory);
        expected.extend(inside(&path, &id));
        knock_in_and_out(&mut client, &outer, &format!("{directory}0"));
    }
    assert_eq!(places(&tracer.stop()), expected);
    drop(client);
}

fn a_unit_passes_also_when_restarted(lab: &Lab) {
    let outer = Cgroup::new(&format!("slice-{}-{}", lab.attach, lab.buffer));
    let unit = format!("who-{}.service", std::process::id());
    let mut client = Client::new();
    let existing = outer.inside(&unit);
    let tracer = cgroup_tracer(lab, &client, &["--unit", &unit]);
    existing.adopt(client.pid());
    client.knock(80);
    outer.adopt(client.pid());
    let mut expected = vec![json!([80, existing.path(), null])];
    drop(existing);
    for name in [&*unit, &unit, &format!("not-{unit}"), &format!("{unit}.d")] {
        let path = knock_in_and_out(&mut client, &outer, name);
        if name == unit {
            expected.extend(inside(&path, &Value::Null));
        }
    }
    assert_eq!(places(&tracer.stop()), expected);
    drop(client);
}

fn container_and_cgroup_are_shown_though_both_are_gone(lab: &Lab) {
    let outer = Cgroup::new(&format!("gone-{}-{}", lab.attach, lab.buffer));
    let mut client = Client::new();
    let id = new_id();
    let tracer = cgroup_tracer(lab, &client, &[]);
    tracer.signal(libc::SIGSTOP);
    let path = knock_in_and_out(&mut client, &outer, &format!("docker-{id}.scope"));
    assert!(!fs::exists(outer.0.join(format!("docker-{id}.scope"))).unwrap_or(true));
    tracer.signal(libc::SIGCONT);
    let outside = json!([84, outer.path(), null]);
    let expected = [&inside(&path, &json!(id))[..], &[outside]].concat();
    assert_eq!(places(&tracer.stop())[1..], expected);
    drop(client);
}

/// More are made than their records have room, and the last of them is found on the disk.
fn a_cgroup_whose_making_was_lost_is_found_later(lab: &Lab) {
    let outer = Cgroup::new(&format!("lost-{}-{}", lab.attach, lab.buffer));
    let mut client = Client::new();
    let tracer = cgroup_tracer(lab, &client, &["--buffer-size", "4K"]);
    tracer.signal(libc::SIGSTOP);
    let made: Vec<_> = (0..200).map(|n| outer.inside(&n.to_string())).collect();
    tracer.signal(libc::SIGCONT);
    tracer.wait_for("\"event\":\"lost\"", 1);
    let last = made.last().expect("there are many");
    last.adopt(client.pid());
    client.knock(81);
    let done = tracer.stop();
    assert!(done.lost("process") > 0, "{done:?}");
    let [row] = &done.rows()[..] else { panic!("{done:?}") };
    assert_eq!(row["cgroup"], last.path(), "{done:?}");
    drop(client);
}

/// A shell as the first process of a pid namespace.
fn in_own_pids(lab: &Lab, client: &Client, script: &str, dir: &str) -> Done {
    let mut command = client.beside("unshare");
    command.args(["-p", "-f", "--mount-proc", "sh", "-c", script]);
    command.env("TCPCONNECT", lab::tcpconnect()).env("CLIENT", program()).env("DIR", dir);
    command.env("ATTACH", &lab.attach).env("BUFFER", &lab.buffer);
    let output = command.stdin(Stdio::null()).output().expect("unshare runs");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    Done { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

const TRACE: &str = "\"$TCPCONNECT\" --attach $ATTACH --buffer $BUFFER -j -x -a --vpid";

fn pids_are_those_of_the_tracers_pid_namespace(lab: &Lab) {
    let (_dir, dir) = open_dir();
    let client = Client::new();
    // The child's connect is first and not wanted.
    let script = format!(
        "\"$CLIENT\" --act until=$DIR/ready twice tap=81 & echo $! >$DIR/pid; \
         exec {TRACE} -n 1 -p $! --ready-fd 3 3>$DIR/ready"
    );
    let done = in_own_pids(lab, &client, &script, &dir);
    let row = only_row(&done);
    let pid: u32 = fs::read_to_string(format!("{dir}/pid")).expect("a pid").trim().parse().unwrap();
    assert_eq!(row["vpid"], pid);
    let exe = program();
    assert_eq!(row["args"], json!([exe, "--act", format!("until={dir}/ready"), "twice", "tap=81"]));
    assert_eq!((&row["exe"], &row["source"]), (&json!(exe), &json!("procfs")));
}

fn a_command_is_told_in_the_tracers_pid_namespace(lab: &Lab) {
    let client = Client::new();
    let script = format!("{TRACE} -- sh -c '\"$CLIENT\" --act tap=81; exit 7'");
    let done = in_own_pids(lab, &client, &script, "");
    assert_eq!((done.status.code(), &*done.stderr), (Some(7), ""), "{done:?}");
    let rows = done.rows();
    assert_eq!(rows.len(), 1, "{done:?}");
    let exe = program();
    assert_eq!(rows[0]["args"], json!([exe, "--act", "tap=81"]));
    assert_eq!((&rows[0]["exe"], &rows[0]["source"]), (&json!(exe), &json!("exec")));
    assert!(rows[0]["vpid"].as_u64().is_some_and(|pid| pid < 100), "{:#}", rows[0]);
}

fn no_program_is_loaded_that_is_not_asked_for(lab: &Lab) {
    let loaded = |args: &[&str]| {
        let tracer = lab.trace(args);
        let infos = fs::read_dir(format!("/proc/{}/fdinfo", tracer.child.id())).expect("it runs");
        let infos = infos.filter_map(|info| fs::read_to_string(info.ok()?.path()).ok());
        // Several descriptors may lead to one program.
        let ids: BTreeSet<_> = infos
            .filter(|info| !info.contains("link_type:"))
            .filter_map(|info| {
                info.lines().find_map(|l| Some(l.strip_prefix("prog_id:")?.trim().to_owned()))
            })
            .collect();
        assert!(!ids.is_empty());
        let output = Command::new("bpftool").args(["prog", "show"]).output();
        let text = String::from_utf8(output.expect("bpftool runs").stdout).expect("UTF-8");
        let is_ours = |line: &&str| ids.iter().any(|id| line.starts_with(&format!("{id}: ")));
        let ours: Vec<_> = text.lines().filter(is_ours).collect();
        assert_eq!(ours.len(), ids.len(), "{text}");
        let names = ["process_", "cgroup_", "dns_"];
        ours.iter().filter(|l| names.iter().any(|n| l.contains(n))).count()
    };
    assert_eq!(loaded(&["-j", "-p", "1"]), 0);
    assert_eq!(loaded(&["-t", "-U", "-L"]), 0);
    assert!(loaded(&["--wide"]) > 0);
    assert!(loaded(&["--unit", "a.service"]) > 0);
    assert_eq!(loaded(&["-d"]), 6);
}

/// Were one of them not found, libbpf would take all of them, and say nothing.
fn programs_are_relocated_by_the_types_that_they_read(lab: &Lab) {
    for args in ["-v", "-v -r --life --accept --peer -e -j", "-v --wide -d --procs"] {
        let args: Vec<_> = args.split(' ').chain(["--duration", "0.01"]).collect();
        let done = lab.run(&args);
        assert!(done.status.success(), "{done:?}");
        let types = "tcpconnect: relocated by those types of the kernel that are read\n";
        assert!(done.stderr.contains(types), "{args:?}: {done:?}");
    }
    // Where no file may be written, also none in memory.
    let mut none = Command::new("sh");
    none.args(["-c", "ulimit -f 0; exec \"$0\" \"$@\""]).arg(lab::tcpconnect());
    none.args(lab.words(&[])).args(["-v", "--duration", "0.01"]);
    let output = none.output().expect("sh runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    assert!(stderr.contains("tcpconnect: relocated by all types\n"), "{stderr}");
}

/// A child that leads a session, is another user and has another name, then
/// crashes.
fn crash() -> u32 {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "kill -SEGV $$"]).uid(65534).gid(65534).current_dir("/");
    // SAFETY: two system calls, on memory that is constant.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::prctl(libc::PR_SET_NAME, c"renamed\x1b".as_ptr());
            Ok(())
        });
    }
    let mut child = command.stdin(Stdio::null()).spawn().expect("a shell runs");
    child.wait().expect("our child");
    child.id()
}

/// A child that is traced for a moment.
fn traced() -> u32 {
    let mut child =
        Command::new("/bin/sh").args(["-c", "read x"]).stdin(Stdio::piped()).spawn().expect("sh");
    let pid = child.id() as i32;
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: system calls on a child of ours that is not yet waited for; they
    // take no memory of ours.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, pid, nothing, nothing), 0);
        assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, pid, nothing, nothing), 0);
        assert_eq!(libc::waitpid(pid, std::ptr::null_mut(), 0), pid);
        assert_eq!(libc::ptrace(libc::PTRACE_DETACH, pid, nothing, nothing), 0);
    }
    drop(child.stdin.take());
    child.wait().expect("our child");
    child.id()
}

fn each_of_the_nine_process_events_is_told(lab: &Lab) {
    let tracer = lab.trace(&["-j", "--procs=only"]);
    let (crashed, traced) = (crash(), traced());
    let done = tracer.stop();
    done.assert_quiet_success();
    let of = |pid: u32, event: &str| -> Vec<Value> {
        let mut objects = done.objects(event);
        objects.retain(|object| object["pid"] == pid);
        objects
    };
    let one = |event: &str| -> Value {
        let mut found = of(crashed, event);
        assert_eq!(found.len(), 1, "{event}: {found:#?}");
        found.remove(0)
    };
    let us = std::process::id();
    let fork = one("fork");
    assert_eq!(
        (&fork["ppid"], &fork["tid"], &fork["uid"]),
        (&json!(us), &json!(crashed), &json!(0))
    );
    assert_eq!((&one("uid")["uid"], &one("uid")["euid"]), (&json!(65534), &json!(65534)));
    assert_eq!((&one("gid")["gid"], &one("gid")["egid"]), (&json!(65534), &json!(65534)));
    assert_eq!(one("sid")["ppid"], us);
    let comm = &of(crashed, "comm")[0];
    assert_eq!(comm["comm"], "renamed\u{1b}");
    let exec = &of(crashed, "exec")[0];
    assert_eq!(exec["args"], json!(["/bin/sh", "-c", "kill -SEGV $$"]));
    assert_eq!(
        (&exec["uid"], &exec["ppid"], &exec["source"]),
        (&json!(65534), &json!(us), &json!("exec"))
    );
    let exe = fs::canonicalize("/bin/sh").expect("a shell");
    assert_eq!(exec["exe"], exe.to_str().expect("UTF-8"));
    one("coredump");
    let exit = one("exit");
    assert_eq!((&exit["exit_signal"], &exit["exit_code"]), (&json!(libc::SIGSEGV), &Value::Null));
    let process_ids =
        ["fork", "exec", "exit"].map(|event| of(crashed, event)[0]["process_id"].clone());
    assert!(
        process_ids.iter().all(|id| id.is_string() && *id == process_ids[0]),
        "{process_ids:?}"
    );

    let tracers: Vec<_> = of(traced, "ptrace").iter().map(|o| o["tracer"].clone()).collect();
    assert_eq!(tracers, [json!(us), Value::Null]);
    assert_eq!(of(traced, "exit")[0]["exit_code"], 1);
}

/// A child whose first thread ends with 3, and another one so many microseconds later with 7:
/// which of them is its code depends on the kernel.
fn ended_by_threads(later_us: u32) -> (u32, Option<i32>) {
    extern "C" fn last(later_us: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: ends this thread alone, which owns nothing.
        unsafe {
            libc::usleep(later_us.addr() as u32);
            libc::syscall(libc::SYS_exit, 7);
        }
        std::ptr::null_mut()
    }
    let mut command = Command::new("/bin/true");
    // SAFETY: the child has its own copy of everything, and no other thread needs it.
    unsafe {
        command.pre_exec(move || {
            let mut thread = std::mem::zeroed();
            let later = std::ptr::without_provenance_mut(later_us as usize);
            assert_eq!(libc::pthread_create(&mut thread, std::ptr::null(), last, later), 0);
            libc::syscall(libc::SYS_exit, 3);
            Ok(())
        });
    }
    let mut child = command.spawn().expect("the child ends before it would run a program");
    (child.id(), child.wait().expect("our child").code())
}

/// The first process of a pid namespace of its own, which asks for a reboot of that: the pid,
/// and what wait() says.
fn ended_by_reboot() -> (u32, i32) {
    let flags = libc::CLONE_NEWPID | libc::SIGCHLD;
    let mut status = 0;
    // SAFETY: as a fork, of a process in which no other thread's locks are taken: the child makes
    // system calls alone. A reboot in the first pid namespace would be one of the machine.
    unsafe {
        let pid = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) as i32;
        if pid == 0 {
            if libc::getpid() == 1 {
                libc::reboot(libc::RB_AUTOBOOT);
            }
            libc::_exit(0);
        }
        assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
        (pid as u32, status)
    }
}

fn an_exit_tells_what_wait_does(lab: &Lab) {
    let tracer = lab.trace(&["-j", "--procs=only"]);
    let (rebooted, status) = ended_by_reboot();
    assert_eq!(status, libc::SIGHUP, "as reboot(2) says");
    // Nearly all of them at the same time.
    let at_once = lab.more_in_one_cell(200, 20) as u32;
    let later = std::iter::once(100_000).chain((0..at_once).map(|n| n % 8));
    let ended: Vec<_> = later.map(ended_by_threads).collect();
    let done = tracer.stop();
    done.assert_quiet_success();
    let exits = done.objects("exit");
    for (pid, code) in ended {
        let of_it = exits.iter().filter(|exit| exit["pid"] == pid);
        let told: Vec<_> = of_it.map(|exit| exit["exit_code"].clone()).collect();
        assert!([Some(3), Some(7)].contains(&code), "{code:?}");
        assert_eq!(told, [json!(code)], "of pid {pid}");
    }
    let exit = exits.iter().find(|exit| exit["pid"] == rebooted).expect("its row");
    assert_eq!((&exit["exit_signal"], &exit["core_dumped"]), (&json!(status), &json!(false)));
}

fn a_connect_stands_between_the_events_of_its_process(lab: &Lab) {
    let mut client = Client::new();
    let pid = client.pid().to_string();
    let tracer = lab.trace(&["-j", "--procs", "--exe", "-p", &pid, "--children"]);
    let attempts = client.case("exec_child");
    let done = tracer.stop();
    done.assert_quiet_success();
    let child = &attempts.iter().find(|a| a["rows"] == 1).expect("it connects")["pid"];
    let events: Vec<_> = done
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("one object"))
        .filter(|object| object["pid"] == *child)
        .map(|object| object["event"].as_str().expect("a word").to_owned())
        .collect();
    assert_eq!(events, ["fork", "exec", "connect", "exit"]);
}
