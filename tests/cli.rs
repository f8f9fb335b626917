// SPDX-License-Identifier: Apache-2.0
//! The command as scripts see it without tracing anything: exit status, the one
//! line on stderr, and what --help and its like print.

use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::fs::Permissions;
use std::io::pipe;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use tempfile::TempDir;

const TCPCONNECT: &str = env!("CARGO_BIN_EXE_tcpconnect");
const NOBODY: u32 = 65534;

/// What a finished run left.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Done {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// A program that ends by itself or, with status 124, after 20 s: an option
/// wrongly accepted would trace for ever.
fn limited(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("timeout");
    command.arg("20").arg(program.as_ref()).stdin(Stdio::null());
    command
}

fn finish(command: &mut Command) -> Done {
    let output = command.output().expect("timeout(1) runs");
    let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
    Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn run(args: &[&str]) -> Done {
    finish(limited(TCPCONNECT).args(args))
}

/// Nothing on stdout, `line` on stderr.
fn refusal(code: i32, line: &str) -> Done {
    Done { code: Some(code), stdout: String::new(), stderr: format!("{line}\n") }
}

fn usage_error(why: &str) -> Done {
    refusal(2, &format!("tcpconnect: {why} (see tcpconnect --help)"))
}

/// Runs each case, and names all that went wrong.
fn check<'a>(cases: impl IntoIterator<Item = (&'a str, Vec<&'a str>, Done)>) {
    let mut failures = Vec::new();
    for (name, args, expected) in cases {
        let done = run(&args);
        if done != expected {
            failures.push(format!("{name}: {args:?}\n    is {done:?}\nshould {expected:?}"));
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn refused_with_usage_errors(cases: &[(&str, &[&str], &str)]) {
    check(cases.iter().map(|(name, args, why)| (*name, args.to_vec(), usage_error(why))));
}

/// Values of one option, refused for the reason given beside each.
fn refused_values(args: &[&str], shown: &str, cases: &[(&str, &str, &str)]) {
    check(cases.iter().map(|(name, value, why)| {
        let why = format!("invalid value '{value}' for '{shown}': {why}");
        (*name, [args, &[value]].concat(), usage_error(&why))
    }));
}

#[test]
fn a_bad_pid_is_refused() {
    refused_values(
        &["-p"],
        "--pid <PID[,PID]>",
        &[
            ("zero", "0", "'0' is not a pid from 1 to 4194304"),
            ("a word", "abc", "'abc' is not a pid from 1 to 4194304"),
            ("above the kernel's limit", "4194305", "'4194305' is not a pid from 1 to 4194304"),
            ("empty", "", "'' is not a pid from 1 to 4194304"),
            ("a fraction", "1.5", "'1.5' is not a pid from 1 to 4194304"),
        ],
    );
    let hole = "invalid value '' for '--pid <PID[,PID]>': '' is not a pid from 1 to 4194304";
    let missing = "a value is required for '--pid <PID[,PID]>' but none was supplied";
    refused_with_usage_errors(&[
        ("empty at the end of a list", &["--pid", "181,"], hole),
        ("negative", &["-p", "-1"], "unexpected argument '-1' found"),
        ("missing", &["-p"], missing),
    ]);
}

#[test]
fn a_snapshot_needs_no_privilege_and_refuses_what_only_tracing_has() {
    refused_with_usage_errors(&[
        (
            "osquery's names are for sockets",
            &["--json=osquery"],
            "--json=osquery needs --snapshot: it lists sockets, not connects",
        ),
        (
            "nothing is counted",
            &["-s", "-c"],
            "--snapshot shows what is there now, and no more; leave out -c",
        ),
        ("a value without its sign", &["--snapshot", "all"], "unexpected argument 'all' found"),
    ]);
    let own = std::process::id().to_string();
    let done = run(&["--snapshot", "-p", &own, "-P", "1"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.starts_with("FAMILY ") && done.stdout.lines().count() == 1, "{done:?}");
    let done = run(&["-s", "-o", "/nowhere/rows"]);
    let why = "tcpconnect: cannot write to --output '/nowhere/rows': No such file or directory";
    assert_eq!(done, refusal(1, why));
}

#[test]
fn a_bad_port_is_refused() {
    refused_values(
        &["-P"],
        "--port <PORTS>",
        &[
            ("zero", "0", "'0' is not a port from 1 to 65535 or a range of them"),
            ("too high", "70000", "'70000' is not a port from 1 to 65535 or a range of them"),
            ("one too high", "65536", "'65536' is not a port from 1 to 65535 or a range of them"),
            ("without end", "80-", "'80-' is not a port from 1 to 65535 or a range of them"),
            ("from zero", "0-80", "'0-80' is not a port from 1 to 65535 or a range of them"),
            ("three ends", "1-2-3", "'1-2-3' is not a port from 1 to 65535 or a range of them"),
            ("a word", "abc", "'abc' is not a port from 1 to 65535 or a range of them"),
            ("a word later", "80,abc", "'abc' is not a port from 1 to 65535 or a range of them"),
            ("a range turned round", "9-1", "the range 9-1 is empty; write 1-9"),
            ("a hole", "80,,81", "'' is not a port from 1 to 65535 or a range of them"),
            ("empty", "", "'' is not a port from 1 to 65535 or a range of them"),
        ],
    );
    let why = "'80 81' is not a port from 1 to 65535 or a range of them";
    let why = format!("invalid value '80 81' for '--port <PORTS>': {why}");
    refused_with_usage_errors(&[("two lines", &["-P", "80\n81"], &why)]);
}

#[test]
fn a_bad_uid_is_refused() {
    refused_values(
        &["-u"],
        "--uid <UID>",
        &[
            ("a word", "abc", "invalid digit found in string"),
            ("beyond 32 bits", "4294967296", "4294967296 is not in 0..=4294967295"),
            ("empty", "", "cannot parse integer from empty string"),
        ],
    );
    refused_with_usage_errors(&[("negative", &["-u", "-1"], "unexpected argument '-1' found")]);
}

#[test]
fn a_bad_network_is_refused() {
    for option in ["--to", "--not-to"] {
        refused_values(
            &[option],
            &format!("{option} <NET[,NET]>"),
            &[
                ("three numbers", "1.2.3/8", "'1.2.3' is not an IPv4 or IPv6 address"),
                ("host bits", "10.0.0.1/8", "'10.0.0.1/8' has bits set after its first 8"),
                ("host bits of IPv6", "::1/64", "'::1/64' has bits set after its first 64"),
                ("too long", "10.0.0.0/33", "'/33' is not a prefix length from 0 to 32"),
                ("too long for IPv6", "::1/129", "'/129' is not a prefix length from 0 to 128"),
                ("no length", "10.0.0.0/", "'/' is not a prefix length from 0 to 32"),
                ("no address", "/8", "'' is not an IPv4 or IPv6 address"),
                ("empty", "", "'' is not an IPv4 or IPv6 address"),
                ("a name", "localhost", "'localhost' is not an IPv4 or IPv6 address"),
                ("a zone", "fe80::1%lo", "'fe80::1%lo' is not an IPv4 or IPv6 address"),
            ],
        );
    }
}

#[test]
fn a_bad_thread_name_is_refused() {
    let long = "the kernel keeps 15 bytes of a thread name; try '0123456789abcde'";
    refused_values(
        &["--comm"],
        "--comm <NAME>",
        &[
            ("too long", "0123456789abcdef", long),
            ("empty", "", "a thread name has at least one byte"),
        ],
    );
}

#[test]
fn a_bad_limit_is_refused() {
    refused_values(
        &["-n"],
        "--max-events <N>",
        &[
            ("no rows", "0", "0 is not in 1..18446744073709551615"),
            ("a word", "abc", "invalid digit found in string"),
        ],
    );
    let negative = "unexpected argument '-1' found";
    refused_with_usage_errors(&[
        ("negative rows", &["-n", "-1"], negative),
        ("negative duration", &["--duration", "-1"], negative),
        ("negative interval", &["-c", "-i", "-1"], negative),
    ]);
    for bad in ["0", "0.0", "abc", "nan", "NaN", "inf", "infinity", "1e30", "1e400", "1s", ""] {
        let why = format!("'{bad}' is not a number of seconds greater than 0");
        refused_values(&["--duration"], "--duration <SECONDS>", &[("duration", bad, &why)]);
        refused_values(&["-c", "-i"], "--interval <SECONDS>", &[("interval", bad, &why)]);
    }
}

#[test]
fn a_bad_buffer_size_is_refused() {
    let many = "99999999999999999999M";
    for bad in ["0", "0K", "abc", "2G", "1025M", "1073741825", many, "K", "1 K", "1.5M", ""] {
        let why = format!("'{bad}' is not a size from 1 to 1024M (bytes, K or M)");
        refused_values(&["--buffer-size"], "--buffer-size <SIZE>", &[("size", bad, &why)]);
    }
}

#[test]
fn a_bad_container_or_unit_is_refused() {
    let long = "a".repeat(97);
    let too_long = format!("'{long}' is longer than 96 bytes");
    let cases = [
        ("empty", "", "the name is empty"),
        ("a path from the root", "/", "'/' is a path; use --cgroup for it"),
        ("a path", "a/b", "'a/b' is a path; use --cgroup for it"),
        ("too long", &long, &too_long),
    ];
    refused_values(&["--unit"], "--unit <NAME>", &cases);
    let long = "a".repeat(513);
    let too_long = format!("'{long}' is longer than 512 bytes");
    let no_name = "'a/b/c/d' is no ID, NAME or NAMESPACE/POD/NAME; use --cgroup for a path";
    let more = [("a longer path", "a/b/c/d", no_name), ("too long", &*long, &*too_long)];
    let cases = [&cases[..2], &more].concat();
    refused_values(&["--container"], "--container <ID|NAME>", &cases);
    let cases = [
        ("empty", "", "a name is empty"),
        ("no pod", "shop/", "a name is empty"),
        ("no namespace", "/web", "a name is empty"),
        (
            "of one container",
            "shop/web/nginx",
            "'shop/web/nginx' is no [NAMESPACE/]NAME; use --container for one of it",
        ),
        ("no pattern", "a***", "wildcards are either regular `*` or recursive `**`"),
    ];
    refused_values(&["--pod"], "--pod <[NAMESPACE/]NAME>", &cases);
    refused_with_usage_errors(&[
        (
            "no container",
            &["--container"],
            "a value is required for '--container <ID|NAME>' but none was supplied",
        ),
        ("no unit", &["--unit"], "a value is required for '--unit <NAME>' but none was supplied"),
    ]);
}

#[test]
fn an_unknown_choice_or_option_is_refused() {
    let hooks = "invalid value 'bogus' for '--attach <HOOK>' \
                 [possible values: auto, fentry, kprobe, sockops]";
    let buffers = "invalid value 'bogus' for '--buffer <KIND>' [possible values: auto, ring, perf]";
    let no_value = "unexpected value '1' for '--lport' found; no more were expected";
    let no_file = "a value is required for '--output <FILE>' but none was supplied";
    refused_with_usage_errors(&[
        ("hook", &["--attach", "bogus"], hooks),
        ("transport", &["--buffer", "bogus"], buffers),
        ("long option", &["--bogus"], "unexpected argument '--bogus' found"),
        ("short option", &["-z"], "unexpected argument '-z' found"),
        ("short option behind another", &["-tz"], "unexpected argument '-z' found"),
        ("a command without --", &["curl"], "unexpected argument 'curl' found"),
        ("a value for a flag", &["--lport=1"], no_value),
        (
            "other process events",
            &["--procs=x"],
            "invalid value 'x' for '--procs[=<WHAT>]' [possible values: with, only]",
        ),
        (
            "a unit in a path",
            &["--unit", "a/b"],
            "invalid value 'a/b' for '--unit <NAME>': 'a/b' is a path; use --cgroup for it",
        ),
        (
            "a container without a name",
            &["--container="],
            "invalid value '' for '--container <ID|NAME>': the name is empty",
        ),
        ("no output file", &["--output", ""], no_file),
        ("a value for --wide", &["--wide=1"], &no_value.replace("lport", "wide")),
        ("negative descriptor", &["--ready-fd", "-1"], "unexpected argument '-1' found"),
    ]);
    refused_values(
        &["--ready-fd"],
        "--ready-fd <FD>",
        &[("a word as descriptor", "abc", "invalid digit found in string")],
    );
    let not_utf8 = finish(limited(TCPCONNECT).arg("-P").arg(OsStr::from_bytes(b"\xff")));
    let why = "invalid UTF-8 was detected in one or more arguments";
    assert_eq!(not_utf8, usage_error(why));
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    refused_with_usage_errors(&[
        ("both families", &["-4", "-6"], "the argument '--ipv4' cannot be used with '--ipv6'"),
        (
            "both families, turned round",
            &["-6", "-4"],
            "the argument '--ipv6' cannot be used with '--ipv4'",
        ),
        (
            "both families in one word",
            &["-46"],
            "the argument '--ipv4' cannot be used with '--ipv6'",
        ),
        (
            "counting by name",
            &["-c", "--to-name", "*.test"],
            "-c counts connects, and nothing else of them; leave out --to-name",
        ),
        (
            "no connections, but their names",
            &["--procs=only", "-d"],
            "--procs=only shows no connections; leave out -d",
        ),
        (
            "a snapshot with names",
            &["-s", "-d"],
            "--snapshot shows what is there now, and no more; leave out -d",
        ),
        (
            "counting and who",
            &["-c", "--exe"],
            "-c counts connects, and nothing else of them; leave out -x",
        ),
        (
            "counting and all that --wide is",
            &["--wide", "-c"],
            "-c counts connects, and nothing else of them; leave out --wide",
        ),
        (
            "counting and a user's name",
            &["-c", "--user"],
            "-c counts connects, and nothing else of them; leave out --user",
        ),
        (
            "process events of a map of cgroups",
            &["--procs=only", "--cgroupmap", "x"],
            "--procs=only shows no connections; leave out --cgroupmap",
        ),
        (
            "process events of a network namespace",
            &["--procs", "--netns", "1"],
            "--procs can be narrowed by processes, users, names and cgroups only; leave out --netns",
        ),
        (
            "an interval without counting",
            &["-i", "1"],
            "-i needs -c: it is how often the table of counts is printed",
        ),
        (
            "a number of rows with counting",
            &["-n", "5", "-c"],
            "-n counts rows and -c prints none; use --duration with -c",
        ),
        ("children of nobody", &["--children"], "--children needs -p: whose children?"),
        (
            "a pid and a command",
            &["-p", "1", "--", "true"],
            "-p and a COMMAND exclude each other: a COMMAND is traced alone",
        ),
    ]);
}

#[test]
fn counting_with_names_is_refused_in_bccs_words() {
    let expected = || refusal(2, "Error: you may not specify -d/--dns with -c/--count.");
    check([
        ("-c -d", vec!["-c", "-d"], expected()),
        ("-d -c", vec!["-d", "-c"], expected()),
        ("long", vec!["--count", "--dns"], expected()),
        ("with -i", vec!["-cd", "-i", "1"], expected()),
    ]);
}

/// argparse takes any unambiguous beginning of a long option. Each of these is
/// recognised by the error that only the option it stands for can cause.
#[test]
fn long_options_can_be_abbreviated() {
    let bcc = refusal(2, "Error: you may not specify -d/--dns with -c/--count.");
    check([
        ("count and dns", vec!["--cou", "--dn"], bcc.clone()),
        ("count and dns, as short as BCC takes them", vec!["--co", "--d"], bcc),
    ]);
    let no_port = "invalid value '0' for '--port <PORTS>': \
                   '0' is not a port from 1 to 65535 or a range of them";
    let no_pid = "invalid value '0' for '--pid <PID[,PID]>': '0' is not a pid from 1 to 4194304";
    let no_uid = "invalid value 'abc' for '--uid <UID>': invalid digit found in string";
    let flag = |name| format!("unexpected value '1' for '--{name}' found; no more were expected");
    refused_with_usage_errors(&[
        ("port", &["--po", "0"], no_port),
        ("pid", &["--pi=0"], no_pid),
        ("uid", &["--u", "abc"], no_uid),
        ("lport", &["--l=1"], &flag("lport")),
        ("print-uid", &["--pr=1"], &flag("print-uid")),
        ("timestamp", &["--timest=1"], &flag("timestamp")),
        ("timestamp, not time", &["--t=1"], &flag("timestamp")),
        ("time is no abbreviation", &["--time=1"], &flag("time")),
        ("pid, port or print-uid", &["--p", "1"], "unexpected argument '--p' found"),
        ("ipv4 or ipv6", &["--ipv"], "unexpected argument '--ipv' found"),
    ]);
}

/// What argparse does with an option given twice: the last one counts.
#[test]
fn an_option_given_twice_is_no_error() {
    let later = "-i needs -c: it is how often the table of counts is printed";
    refused_with_usage_errors(&[
        ("-t -t", &["-t", "-t", "-i", "1"], later),
        ("-LL", &["-LLi", "1"], later),
        ("-u twice", &["-u", "1", "-u", "2", "-i", "1"], later),
        ("-P twice", &["-P", "80", "-P", "81", "-i", "1"], later),
    ]);
}

#[test]
fn an_unusable_file_or_namespace_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "not a map").unwrap();
    let file = file.to_str().unwrap();
    let missing = dir.path().join("missing/file");
    let missing = missing.to_str().unwrap();
    let folder = dir.path().to_str().unwrap();
    let not_there = "No such file or directory";
    let no_output = format!("cannot write to --output '{missing}': {not_there}");
    let no_folder = format!("cannot write to --output '{folder}': Is a directory");
    let no_btf = match Path::new("/sys/kernel/btf/vmlinux").exists() {
        true => "this kernel has BTF of its own; leave out --btf".to_owned(),
        false => format!("{not_there}; check --btf"),
    };
    let no_btf = format!("cannot use BTF file '{missing}': {no_btf}");
    let no_pin = format!("'{missing}': {not_there}; pin a map there first (bpftool map pin)");
    let no_name = format!("--netns 'no-such': /run/netns/no-such: {not_there}");
    let no_process = format!("--netns '4194304': /proc/4194304/ns/net: {not_there}");
    let cases = [
        ("output into a missing folder", ["--output", missing], no_output),
        ("output into a folder", ["-o", folder], no_folder),
        ("BTF where it is not needed, or missing", ["--btf", missing], no_btf),
        ("missing cgroup map", ["--cgroupmap", missing], format!("--cgroupmap {no_pin}")),
        ("missing mount map", ["--mntnsmap", missing], format!("--mntnsmap {no_pin}")),
        (
            "missing namespace",
            ["--netns", missing],
            format!("--netns '{missing}': {missing}: {not_there}"),
        ),
        ("no namespace", ["--netns", file], format!("--netns '{file}': {file} is not a namespace")),
        ("unknown name", ["--netns", "no-such"], no_name),
        ("pid of nobody", ["--netns", "4194304"], no_process),
        (
            "inode too big",
            ["--netns", "4294967296"],
            "--netns '4294967296': not a namespace inode".into(),
        ),
    ];
    check(cases.iter().map(|(name, args, why)| {
        (*name, args.to_vec(), refusal(1, &format!("tcpconnect: {why}")))
    }));
}

/// As root: others are told of their capabilities instead.
#[test]
fn a_file_that_is_no_pinned_map_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    for (short, long) in [("-C", "--cgroupmap"), ("-M", "--mntnsmap")] {
        let mut command = as_root("timeout");
        let done = finish(command.args(["20", TCPCONNECT, short, path]));
        let why = format!("{long} '{path}': not a pinned BPF map (Permission denied)");
        assert_eq!(done, refusal(1, &format!("tcpconnect: {why}")));
    }
}

#[test]
fn a_cgroup_that_is_none_is_refused() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().to_str().unwrap();
    let missing = format!("{folder}/missing");
    let (not_v2, not_there) = match tcpconnect::host::cgroup::mount() {
        Some(mount) => (
            format!("not a cgroup v2 directory; those are below {}", mount.display()),
            format!("No such file or directory, nor below {}", mount.display()),
        ),
        None => {
            let none = "no cgroup v2 is mounted here; see mount -t cgroup2".to_owned();
            (none.clone(), none)
        }
    };
    let refused =
        |path: &str, why: &str| refusal(1, &format!("tcpconnect: --cgroup '{path}': {why}"));
    check([
        ("a folder elsewhere", vec!["--cgroup", folder], refused(folder, &not_v2)),
        ("missing", vec!["--cgroup", &missing], refused(&missing, &not_there)),
        ("missing, relative", vec!["--cgroup", "no/such"], refused("no/such", &not_there)),
    ]);
}

#[test]
fn a_closed_descriptor_for_ready_fd_is_refused() {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"exec timeout 20 "$0" --ready-fd 9 9>&-"#, TCPCONNECT]);
    let why =
        "tcpconnect: --ready-fd 9: no such descriptor is open; redirect it, for example 9>FILE";
    assert_eq!(finish(&mut shell), refusal(1, why));
}

/// Descriptors that the program opens itself are nothing that it was given.
#[test]
fn a_descriptor_of_our_own_is_none_for_ready_fd() {
    let dir = TempDir::new().unwrap();
    for fd in 3..=9 {
        let script = format!("exec timeout 20 \"$0\" -o rows --ready-fd {fd} {fd}>&-");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, TCPCONNECT]).current_dir(dir.path());
        let why = format!(
            "tcpconnect: --ready-fd {fd}: no such descriptor is open; redirect it, for example \
             {fd}>FILE"
        );
        assert_eq!(finish(&mut shell), refusal(1, &why));
    }
}

#[test]
fn help_is_on_stdout_and_ends_with_the_examples() {
    for option in ["-h", "--help"] {
        let done = run(&[option]);
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
        is_help(&done);
    }
}

#[test]
fn the_long_help_says_more_than_the_short_one_however_it_is_abbreviated() {
    let (short, long) = (run(&["-h"]), run(&["--help"]));
    let lines = |done: &Done| done.stdout.lines().count();
    assert!(lines(&long) > 2 * lines(&short), "{long:?}");
    for option in ["--h", "--he", "--hel"] {
        assert_eq!(run(&[option]), long, "{option}");
    }
}

/// With all that BCC's has.
fn is_help(done: &Done) {
    assert!(done.stdout.contains("\nUsage: tcpconnect "), "{done:?}");
    let (options, examples) = done.stdout.split_once("\nExamples:\n").expect("examples");
    for heading in ["Columns:", "Filters:", "Output:", "Kernel:", "General:"] {
        assert!(options.lines().any(|line| line == heading), "{heading} is missing");
    }
    assert!(!options.contains("--ebpf"), "--ebpf is hidden");
    let bcc = [
        "",
        "-t",
        "-p 181",
        "-P 80",
        "-P 80,81",
        "-4",
        "-6",
        "-U",
        "-u 1000",
        "-c",
        "-L",
        "--cgroupmap mappath",
        "--mntnsmap mappath",
    ];
    for example in bcc.map(|args| format!("tcpconnect {args}")) {
        let found = examples.lines().any(|line| {
            line.split('#').next().is_some_and(|command| command.trim() == example.trim())
        });
        assert!(found, "BCC's example '{example}' is missing");
    }
}

#[test]
fn the_version_comes_with_build_facts() {
    let done = run(&["-V"]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    assert_eq!(run(&["--version"]), done);
    let lines: Vec<_> = done.stdout.lines().collect();
    assert_eq!(lines[0], concat!("tcpconnect ", env!("CARGO_PKG_VERSION")));
    assert!(lines[1].starts_with("commit: "));
    assert_eq!(lines[2].contains("parquet"), cfg!(feature = "parquet"));
    assert_eq!(lines[3], "hooks: fentry, kprobe, sockops; buffers: ring, perf");
    assert!(lines[4].starts_with("BPF built by "));
    assert!(lines[5].starts_with("target: ") && lines[5].ends_with("dynamic"));
    assert_eq!(lines.len(), 6);
}

#[test]
fn the_program_text_is_printed() {
    let done = run(&["--ebpf"]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    for word in ["SEC(\"sockops\")", "struct connect_record {", "tcp_v4_connect", "should_skip"] {
        assert!(done.stdout.contains(word), "{word} is missing");
    }
}

/// A pipe whose reader is gone, as after `| head -1`.
fn closed_pipe() -> Stdio {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_closed_stdout_is_no_reason_to_complain() {
    for option in ["-h", "--help", "-V", "--version", "--ebpf"] {
        let done = finish(limited(TCPCONNECT).arg(option).stdout(closed_pipe()));
        let quiet = Done { code: Some(0), stdout: String::new(), stderr: String::new() };
        assert_eq!(done, quiet, "{option}");
    }
}

#[test]
fn an_error_that_nobody_can_read_keeps_its_status() {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let usage: &[&str] = &["-4", "-6"];
    for (code, args) in [(2, usage), (2, &["--bogus"]), (1, &["--output", "/nonexistent/file"])] {
        let done = finish(limited(TCPCONNECT).args(args).stderr(closed_pipe()));
        assert_eq!(done.code, Some(code), "{args:?} with a closed stderr");
        let done = finish(limited(TCPCONNECT).args(args).stderr(full()));
        assert_eq!(done.code, Some(code), "{args:?} with a full stderr");
    }
}

#[test]
fn the_older_name_shows_ipv4_only() {
    let dir = TempDir::new().unwrap();
    let link = dir.path().join("tcpv4connect");
    symlink(TCPCONNECT, &link).unwrap();
    let done = finish(limited(&link).arg("-6"));
    let why = |option: &str| {
        format!(
            "tcpv4connect shows connects over IPv4, as it always did; use tcpconnect for {option}"
        )
    };
    assert_eq!(done, usage_error(&why("-6")));
    for option in ["-x", "-a", "--parents", "--user", "--container-id", "--wide", "--procs"] {
        let done = finish(limited(&link).arg(option));
        assert_eq!(done, usage_error(&why(option)), "{option}");
    }
    let renamed = dir.path().join("another-name");
    symlink(TCPCONNECT, &renamed).unwrap();
    let done = finish(limited(&renamed).args(["-6", "--children"]));
    assert_eq!(done, usage_error("--children needs -p: whose children?"));
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A command for root, as the Makefile does it.
fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

/// The binary where every user can run it; gone when the folder is dropped.
///
/// Written by another process: a child forked meanwhile by another test would
/// hold the descriptor open, and then exec fails with ETXTBSY.
fn for_everybody() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let binary = dir.path().join("tcpconnect");
    let copied = Command::new("install").args(["-m", "755", TCPCONNECT]).arg(&binary).status();
    assert!(copied.expect("install(1) runs").success());
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    (dir, binary)
}

/// Runs as nobody; who is not root already has no capabilities.
fn run_unprivileged(binary: &Path, args: &[&str]) -> Done {
    let mut command = limited(binary);
    command.args(args);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    finish(&mut command)
}

fn missing(capabilities: &str) -> Done {
    let why = format!("loading BPF programs needs privileges: {capabilities} missing");
    let advice = "run as root, for example with sudo, or grant the capabilities";
    refusal(1, &format!("tcpconnect: {why}; {advice}"))
}

#[test]
fn an_unprivileged_user_is_told_which_capabilities_are_missing() {
    let (_dir, binary) = for_everybody();
    let cases: [&[&str]; 8] = [
        &[],
        &["-j"],
        &["-c", "-p", "1", "--children"],
        &["--attach", "fentry"],
        &["--attach", "kprobe"],
        &["--attach", "sockops"],
        &["--buffer", "perf"],
        &["--", "true"],
    ];
    for args in cases {
        let done = run_unprivileged(&binary, args);
        assert_eq!(done, missing("CAP_BPF and CAP_PERFMON are"), "{args:?}");
    }
}

/// The names, severities and causes of what is not ok, as `--check -j` has them.
fn not_ok(done: &Done) -> Vec<String> {
    let lines = done.stdout.lines().map(|line| -> serde_json::Value {
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))
    });
    let lines: Vec<_> = lines.filter(|line| line["severity"] != "ok").collect();
    let word = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap().to_owned();
    lines
        .iter()
        .map(|line| ["id", "severity", "cause"].map(|key| word(line, key)).join(" "))
        .collect()
}

#[test]
fn a_check_without_privileges_says_exactly_what_is_missing() {
    let (_dir, binary) = for_everybody();
    let done = run_unprivileged(&binary, &["--check", "-j"]);
    assert_eq!((done.code, &*done.stderr), (Some(2), ""), "{done:?}");
    let of_traces = |line: &String| line.contains("capabilities") || line.starts_with("hook");
    let found: Vec<_> = not_ok(&done).into_iter().filter(of_traces).collect();
    assert_eq!(found, ["capabilities fail capabilities", "hook unknown not-tried"]);
    assert!(done.stdout.contains("CAP_BPF and CAP_PERFMON are missing; run as root"), "{done:?}");
    let done = run_unprivileged(&binary, &["--check"]);
    assert!(done.stdout.ends_with("It does not work, see above.\n"), "{done:?}");
    // Sockets are listed without any.
    let own = std::process::id().to_string();
    let done = finish(limited(&binary).args(["--check", "-s", "-p", &own, "-j"]));
    assert!(!not_ok(&done).iter().any(|line| line.contains("fail")), "{done:?}");
    assert!(!done.stdout.contains("\"hook"), "{done:?}");
}

#[test]
fn a_check_touches_no_file_and_runs_no_command() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (rows, records, ran) = (path("rows"), path("a/records"), path("ran"));
    let words = ["--check", "-j", "-o", &rows, "--", "touch", &ran];
    let done = run(&words);
    let has = |done: &Done, id: &str, severity: &str| {
        let line = format!("\"id\":\"{id}\",\"severity\":\"{severity}\"");
        assert!(done.stdout.contains(&line), "{line}: {done:?}");
    };
    has(&done, "output", "ok");
    has(&done, "command", "ok");
    let done = run(&["--check", "-j", "--record", &records]);
    has(&done, "record", "ok");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let done = run(&["--check", "-j", "-o", "/nowhere/rows", "--", "no-such-program"]);
    has(&done, "output", "fail");
    has(&done, "command", "fail");
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(!done.stdout.contains("nowhere") && !done.stdout.contains("no-such"), "{done:?}");
    let done = run(&["--check", "--ready-fd", "99"]);
    assert!(done.stdout.contains("--ready-fd 99: no such descriptor is open"), "{done:?}");
    assert_eq!(done.code, Some(2), "{done:?}");
}

#[test]
fn a_check_reads_nothing_of_before() {
    refused_with_usage_errors(&[(
        "it asks nothing of this host",
        &["--check", "--read", "rows"],
        "--check says what this host gives a run, and --read asks nothing of it; leave one out",
    )]);
}

/// bpffs is open to root only, so a pinned map there cannot even be looked at.
#[test]
fn an_unprivileged_user_of_a_pinned_map_is_told_which_capabilities_are_missing() {
    let (_dir, binary) = for_everybody();
    let locked = TempDir::new().unwrap();
    let mode = if is_root() { 0o700 } else { 0 };
    fs::set_permissions(locked.path(), Permissions::from_mode(mode)).unwrap();
    let pin = locked.path().join("map");
    for option in ["--cgroupmap", "--mntnsmap"] {
        let done = run_unprivileged(&binary, &[option, pin.to_str().unwrap()]);
        assert_eq!(done, missing("CAP_BPF and CAP_PERFMON are"), "{option}");
    }
}

#[test]
fn with_one_capability_the_other_is_named() {
    let (_dir, binary) = for_everybody();
    for (given, lacking) in [("+bpf", "CAP_PERFMON is"), ("+perfmon", "CAP_BPF is")] {
        let mut command = as_root("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.args(["--inh-caps", given, "--ambient-caps", given, "timeout", "20"]);
        assert_eq!(finish(command.arg(&binary)), missing(lacking), "with {given} only");
    }
}

/// Root of a user namespace has every capability, and none of them counts.
#[test]
fn in_a_user_namespace_the_initial_one_is_advised() {
    let (_dir, binary) = for_everybody();
    let mut command = as_root("unshare");
    let done = finish(command.args(["--user", "--map-root-user", "timeout", "20"]).arg(&binary));
    let line = done.stderr.strip_suffix("\n").expect("a line");
    assert!(line.starts_with("tcpconnect: no hook can be attached: "), "{done:?}");
    assert!(line.ends_with("; run it in the initial user namespace"), "{done:?}");
    assert!(!line.contains("limit of locked memory"), "not the reason: {done:?}");
    assert_eq!(done, refusal(1, line));
    assert_eq!(line.lines().count(), 1);
}
