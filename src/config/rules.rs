// SPDX-License-Identifier: Apache-2.0
//! Which options go together. A kind of run lists the options that it takes, and whatever
//! else was given is refused with its sentence: an option that a run has no use for is never
//! passed over in silence.

use super::cli::Attach;
use super::cli::Buffer;
use super::cli::Cli;
use super::cli::JsonForm;
use super::cli::Procs;
use super::cli::RecordArgs;
use super::cli::Sandbox;
use super::values::Whom;
use crate::model::container::may_be_name;

/// A kind of run.
struct Kind {
    is: fn(&Cli, bool) -> bool,
    takes: &'static [&'static [&'static str]],
    /// Stands before the option that it does not take.
    says: &'static str,
}

/// What any run takes.
const ANY: &[&str] = &["-v", "-o", "-j", "--check"];
/// What any run that traces takes.
const TRACING: &[&str] = &["--duration", "--ready-fd", "--attach", "--sandbox", "--btf"];
/// What any run takes whose events leave the kernel one by one.
const BUFFERS: &[&str] = &["--buffer", "--buffer-size"];
/// BCC's columns.
const COLUMNS: &[&str] = &["-t", "-T", "-L", "-U"];
const OF_PROCESSES: &[&str] = &["-p", "--children", "-u", "--comm", "COMMAND"];
/// Of 64-bit kernels; the inode of a namespace is larger.
const MAX_PID: u32 = 4_194_304;
const OF_CONNECTIONS: &[&str] = &["-P", "--to", "--not-to", "-4", "-6", "--netns"];
const OF_CGROUPS: &[&str] = &["--cgroup", "--container", "--pod", "--unit"];
const OF_MAPS: &[&str] = &["--cgroupmap", "--mntnsmap"];
const WHO: &[&str] = &[
    "-x",
    "-a",
    "--parents",
    "--user",
    "--container-name",
    "--image",
    "--container-id",
    "--cgroup-path",
    "--netns-id",
    "--vpid",
    "--wide",
];
const NAMES: &[&str] = &["-d", "--to-name"];
const OUTCOMES: &[&str] =
    &["-f", "-r", "--min-latency", "--life", "--accept", "--peer", "--keep", "--max-connections"];
const NOW: &[&str] = &["-e", "--who"];
/// What events of processes have without connections; programs and arguments always.
const OF_EVENTS: &[&str] = &["-t", "-T", "-U", "-n", "-x", "-a", "--user", "--wide"];
const IN_JSON: &[&str] =
    &["--parents", "--container-name", "--image", "--container-id", "--cgroup-path"];
const PROCS: &[&str] = &["--procs", "--procs=only"];
const RECORD: &[&str] = &["--record", "--record-size", "--record-age", "--record-args"];
const PAST: &[&str] = &["--read", "--since", "--until"];

/// A run may be of several kinds, and then takes what all of them do.
const KINDS: &[Kind] = &[
    Kind {
        is: |_, is_older| is_older,
        takes: &[
            ANY,
            TRACING,
            BUFFERS,
            COLUMNS,
            OF_PROCESSES,
            OF_CGROUPS,
            OF_MAPS,
            &["-P", "--to", "--not-to", "-4"],
            &["--netns", "-c", "-i", "-n"],
        ],
        says: "tcpv4connect shows connects over IPv4, as it always did; use tcpconnect for",
    },
    Kind {
        is: |cli, _| cli.snapshot.is_some(),
        takes: &[
            ANY,
            OF_CONNECTIONS,
            OF_CGROUPS,
            WHO,
            &["-s", "--json=osquery", "-p", "-u", "--comm", "-n"],
        ],
        says: "--snapshot shows what is there now, and no more; leave out",
    },
    Kind {
        is: |cli, _| cli.snapshot.is_some() && cli.json == Some(JsonForm::Osquery),
        takes: &[
            ANY,
            OF_CONNECTIONS,
            OF_CGROUPS,
            &["-s", "--json=osquery", "-p", "-u", "--comm", "-n"],
        ],
        says: "--json=osquery has osquery's columns, and no others; use -j, or leave out",
    },
    Kind {
        is: |cli, _| cli.record.is_some(),
        takes: &[
            RECORD,
            TRACING,
            BUFFERS,
            OF_PROCESSES,
            OF_CONNECTIONS,
            OF_CGROUPS,
            OF_MAPS,
            &[
                "--procs",
                "-v",
                "--check",
                "--to-name",
                "-f",
                "--min-latency",
                "--peer",
                "--keep",
                "--max-connections",
            ],
            &["-e", "-n"],
        ],
        says: "--record keeps all that is known, and prints nothing; leave out",
    },
    Kind {
        is: |cli, _| !cli.read.is_empty(),
        takes: &[
            ANY,
            PAST,
            COLUMNS,
            OF_CONNECTIONS,
            OF_CGROUPS,
            WHO,
            NAMES,
            NOW,
            PROCS,
            &["-p", "-u", "--comm", "-n", "-c"],
            &["-f", "-r", "--min-latency", "--life", "--accept", "--peer"],
        ],
        says: "--read shows what was written before, and traces nothing; leave out",
    },
    Kind {
        is: |cli, _| cli.existing || cli.who.is_some(),
        takes: &[
            ANY,
            RECORD,
            PAST,
            TRACING,
            BUFFERS,
            COLUMNS,
            OF_CONNECTIONS,
            OF_CGROUPS,
            WHO,
            NAMES,
            OUTCOMES,
            NOW,
            &["-p", "--children", "-u", "--comm", "--procs", "-n"],
        ],
        says: "-e and --who list connections first, which is not done with",
    },
    Kind {
        is: |cli, _| cli.who.is_some() && asks_for_past(cli),
        takes: &[
            ANY,
            &["--since", "--until"],
            TRACING,
            BUFFERS,
            COLUMNS,
            OF_CONNECTIONS,
            OF_CGROUPS,
            WHO,
            NAMES,
            OUTCOMES,
            NOW,
            &["-p", "-u", "--comm", "-n"],
        ],
        says: "--who with --since lists connections that were recorded, too, which does not go \
               with",
    },
    Kind {
        is: |cli, _| cli.count,
        takes: &[
            ANY,
            PAST,
            TRACING,
            BUFFERS,
            COLUMNS,
            OF_PROCESSES,
            OF_CONNECTIONS,
            OF_CGROUPS,
            OF_MAPS,
            &["-c", "-i"],
        ],
        says: "-c counts connects, and nothing else of them; leave out",
    },
    Kind {
        is: |cli, _| cli.count && !counts_here(cli),
        takes: &[
            ANY,
            PAST,
            TRACING,
            COLUMNS,
            OF_PROCESSES,
            OF_CONNECTIONS,
            OF_CGROUPS,
            OF_MAPS,
            &["-c", "-i"],
        ],
        says: "-c counts in the kernel, without a buffer; leave out",
    },
    Kind {
        is: |cli, _| cli.procs == Some(Procs::Only),
        takes: &[ANY, PAST, TRACING, BUFFERS, OF_PROCESSES, OF_CGROUPS, PROCS, OF_EVENTS, IN_JSON],
        says: "--procs=only shows no connections; leave out",
    },
    Kind {
        is: |cli, _| cli.procs == Some(Procs::Only) && cli.json.is_none(),
        takes: &[ANY, PAST, TRACING, BUFFERS, OF_PROCESSES, OF_CGROUPS, PROCS, OF_EVENTS],
        says: "the table of --procs=only has no column for it; add -j, or leave out",
    },
    Kind {
        is: |cli, _| cli.procs.is_some(),
        takes: &[
            ANY,
            RECORD,
            PAST,
            TRACING,
            BUFFERS,
            COLUMNS,
            OF_PROCESSES,
            OF_CGROUPS,
            &["-P", "--to", "--not-to", "-4", "-6", "-n"],
            WHO,
            NAMES,
            OUTCOMES,
            NOW,
            PROCS,
        ],
        says: "--procs can be narrowed by processes, users, names and cgroups only; leave out",
    },
];

/// Whether the tracer counts, and not the kernel, which does not know what containers are called.
fn counts_here(cli: &Cli) -> bool {
    !cli.pod.is_empty() || cli.container.iter().any(|text| may_be_name(text))
}

/// Of what this host has recorded; with --read it is named what is read.
fn asks_for_past(cli: &Cli) -> bool {
    cli.read.is_empty() && (cli.since.is_some() || cli.until.is_some())
}

/// An option that is nothing without another: the option, the others, and why.
const NEEDS: &[(&str, &[&str], &str)] = &[
    ("-i", &["-c"], "-i needs -c: it is how often the table of counts is printed"),
    ("--children", &["-p", "COMMAND"], "--children needs -p: whose children?"),
    ("--keep", &["--peer"], "--keep needs --peer: it is how long both ends are remembered"),
    ("--min-latency", &["-r", "--record"], "--min-latency needs -r: it is the time to the outcome"),
    (
        "--max-connections",
        &["-r", "--life", "--peer", "--record"],
        "--max-connections needs -r, --life or --peer: nothing else follows a connection",
    ),
    ("--record-size", &["--record"], "--record-size needs --record: it bounds its files"),
    ("--record-age", &["--record"], "--record-age needs --record: it bounds its files"),
    ("--record-args", &["--record"], "--record-args needs --record: -a shows all of them"),
    (
        "--since",
        &["--read", "--who"],
        "--since needs --read, or --who on a host that records: what happens now is all that is \
         traced",
    ),
    (
        "--until",
        &["--read", "--who"],
        "--until needs --read, or --who on a host that records; use --duration to end a run",
    ),
    ("--json=osquery", &["-s"], "--json=osquery needs --snapshot: it lists sockets, not connects"),
];

/// Two that mean the opposite, or the same twice.
const EXCLUDES: &[(&str, &[&str], &str)] = &[
    // BCC's own words come before anything else.
    ("-c", &["-d"], "Error: you may not specify -d/--dns with -c/--count."),
    ("-c", &["-n"], "-n counts rows and -c prints none; use --duration with -c"),
    (
        "--check",
        &["--read"],
        "--check says what this host gives a run, and --read asks nothing of it; leave one out",
    ),
    ("-p", &["COMMAND"], "-p and a COMMAND exclude each other: a COMMAND is traced alone"),
    (
        "--who",
        &["--to", "--not-to", "-P"],
        "--who names the other end; leave out --to, --not-to and -P",
    ),
];

type Given = fn(&Cli) -> bool;

/// The options, as messages name them, and whether they are given. A test has each of the
/// program's here, so that one that is new is refused until a kind of run takes it. Those
/// that end the program before anything is done are left out.
const OPTIONS: &[(&str, Given)] = &[
    ("-t", |cli| cli.timestamp),
    ("-T", |cli| cli.time),
    ("-L", |cli| cli.lport),
    ("-U", |cli| cli.print_uid),
    ("-d", |cli| cli.dns),
    ("-f", |cli| cli.failed),
    ("-r", |cli| cli.result),
    ("--min-latency", |cli| cli.min_latency.is_some()),
    ("--life", |cli| cli.life),
    ("--accept", |cli| cli.accept),
    ("--peer", |cli| cli.peer),
    ("--keep", |cli| cli.keep.is_some()),
    ("--max-connections", |cli| cli.max_connections.is_some()),
    ("-x", |cli| cli.exe),
    ("-a", |cli| cli.args),
    ("--parents", |cli| cli.parents),
    ("--user", |cli| cli.user),
    ("--container-name", |cli| cli.container_name),
    ("--image", |cli| cli.image),
    ("--container-id", |cli| cli.container_id),
    ("--cgroup-path", |cli| cli.cgroup_path),
    ("--netns-id", |cli| cli.netns_id),
    ("--vpid", |cli| cli.vpid),
    ("--wide", |cli| cli.wide),
    ("--procs", |cli| cli.procs == Some(Procs::With)),
    ("--procs=only", |cli| cli.procs == Some(Procs::Only)),
    ("-e", |cli| cli.existing),
    ("--who", |cli| cli.who.is_some()),
    ("-s", |cli| cli.snapshot.is_some()),
    ("--record", |cli| cli.record.is_some()),
    ("--record-size", |cli| cli.record_size.is_some()),
    ("--record-age", |cli| cli.record_age.is_some()),
    ("--record-args", |cli| cli.record_args != RecordArgs::Redacted),
    ("--read", |cli| !cli.read.is_empty()),
    ("--since", |cli| cli.since.is_some()),
    ("--until", |cli| cli.until.is_some()),
    ("-p", |cli| !cli.pid.is_empty()),
    ("--children", |cli| cli.children),
    ("-P", |cli| cli.port.is_some()),
    ("--to", |cli| !cli.to.is_empty()),
    ("--not-to", |cli| !cli.not_to.is_empty()),
    ("--to-name", |cli| cli.to_name.is_some()),
    ("-4", |cli| cli.ipv4),
    ("-6", |cli| cli.ipv6),
    ("-u", |cli| cli.uid.is_some()),
    ("--comm", |cli| cli.comm.is_some()),
    ("--cgroup", |cli| !cli.cgroup.is_empty()),
    ("--container", |cli| !cli.container.is_empty()),
    ("--pod", |cli| !cli.pod.is_empty()),
    ("--unit", |cli| !cli.unit.is_empty()),
    ("--netns", |cli| cli.netns.is_some()),
    ("--cgroupmap", |cli| cli.cgroupmap.is_some()),
    ("--mntnsmap", |cli| cli.mntnsmap.is_some()),
    ("-j", |cli| cli.json == Some(JsonForm::Native)),
    ("--json=osquery", |cli| cli.json == Some(JsonForm::Osquery)),
    ("-c", |cli| cli.count),
    ("-i", |cli| cli.interval.is_some()),
    ("-o", |cli| cli.output.is_some()),
    ("-n", |cli| cli.max_events.is_some()),
    ("--duration", |cli| cli.duration.is_some()),
    ("--ready-fd", |cli| cli.ready_fd.is_some()),
    ("--attach", |cli| cli.attach != Attach::Auto),
    ("--sandbox", |cli| cli.sandbox != Sandbox::Auto),
    ("--buffer", |cli| cli.buffer != Buffer::Auto),
    ("--buffer-size", |cli| cli.buffer_size.is_some()),
    ("--btf", |cli| cli.btf.is_some()),
    ("-v", |cli| cli.verbose),
    ("--check", |cli| cli.check),
    ("COMMAND", |cli| !cli.command.is_empty()),
];

/// Refuses, in one sentence, what does not go together.
pub(super) fn check(cli: &Cli, is_older: bool) -> Result<(), String> {
    let given = OPTIONS.iter().filter(|(_, is_given)| is_given(cli));
    let given: Vec<_> = given.map(|(option, _)| *option).collect();
    let has_any = |options: &[&str]| options.iter().any(|option| given.contains(option));
    for (option, others, why) in EXCLUDES {
        if given.contains(option) && has_any(others) {
            return Err((*why).into());
        }
    }
    for kind in KINDS.iter().filter(|kind| (kind.is)(cli, is_older)) {
        let takes = |option: &str| kind.takes.iter().any(|taken| taken.contains(&option));
        // What is found of this host is written so, not what would be traced.
        let is_of_check = |option: &str| cli.check && option == "-j";
        let refused = given.iter().find(|option| !takes(option) && !is_of_check(option));
        if let Some(option) = refused {
            return Err(format!("{} {option}", kind.says));
        }
    }
    for (option, others, why) in NEEDS {
        if given.contains(option) && !has_any(others) {
            return Err((*why).into());
        }
    }
    if cli.to_name.is_some() && matches!(cli.who, Some(Whom::Called(..))) {
        return Err("--who names the other end; leave out --to-name".into());
    }
    let reads = if cli.read.is_empty() { "--since" } else { "--read" };
    if let Some(netns) = cli.netns.as_ref().filter(|_| !cli.read.is_empty() || asks_for_past(cli))
        && netns.parse::<u32>().map_or(true, |number| number <= MAX_PID)
    {
        return Err(format!("{reads} knows network namespaces by their inodes; '{netns}' is none"));
    }
    if cli.failed && cli.attach == Attach::Sockops {
        return Err(
            "-f needs --attach fentry or kprobe: sockops sees no connect that fails before \
                    its SYN"
                .into(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::Config;
    use super::*;

    /// Each option, with what it needs to be taken at all.
    const ALL: &[(&str, &str)] = &[
        ("-t", ""),
        ("-T", ""),
        ("-L", ""),
        ("-U", ""),
        ("-d", ""),
        ("-f", ""),
        ("-r", ""),
        ("--min-latency 1", "-r"),
        ("--life", ""),
        ("--accept", ""),
        ("--peer", ""),
        ("--keep 1", "--peer"),
        ("--max-connections 9", "--life"),
        ("-x", ""),
        ("-a", ""),
        ("--parents", ""),
        ("--user", ""),
        ("--container-name", ""),
        ("--image", ""),
        ("--container-id", ""),
        ("--cgroup-path", ""),
        ("--netns-id", ""),
        ("--vpid", ""),
        ("--wide", ""),
        ("--procs", ""),
        ("--procs=only", ""),
        ("-e", ""),
        ("--who 192.0.2.1", ""),
        ("-s", ""),
        ("--record x", ""),
        ("--record-size 2M", "--record x"),
        ("--record-age 1d", "--record x"),
        ("--record-args first", "--record x"),
        ("--read x", ""),
        ("--since -7d", "--read x"),
        ("--until 1h", "--read x"),
        ("-p 1", ""),
        ("--children", "-p 1"),
        ("-P 80", ""),
        ("--to ::1", ""),
        ("--not-to ::2", ""),
        ("--to-name a", ""),
        ("-4", ""),
        ("-6", ""),
        ("-u 0", ""),
        ("--comm x", ""),
        ("--cgroup /", ""),
        ("--container abcdef", ""),
        ("--pod a", ""),
        ("--unit a", ""),
        ("--netns 1", ""),
        ("--cgroupmap x", ""),
        ("--mntnsmap x", ""),
        ("-j", ""),
        ("--json=osquery", "-s"),
        ("-c", ""),
        ("-i 1", "-c"),
        ("-o x", ""),
        ("-n 1", ""),
        ("--duration 1", ""),
        ("--ready-fd 3", ""),
        ("--attach kprobe", ""),
        ("--sandbox off", ""),
        ("--buffer perf", ""),
        ("--buffer-size 1", ""),
        ("--btf x", ""),
        ("-v", ""),
        ("--check", ""),
    ];

    /// What the second is part of the first: the man page says so of each.
    const PART_OF: &[(&str, &[&str])] = &[
        ("--wide", &["-T", "-U", "-L", "-x", "-a", "--parents", "--container-name"]),
        (
            "--who 192.0.2.1",
            &[
                "-e",
                "--accept",
                "--wide",
                "-T",
                "-U",
                "-L",
                "-x",
                "-a",
                "--parents",
                "--container-name",
            ],
        ),
        ("--to-name a", &["-d"]),
        // JSON has these always.
        ("-j", &["-t", "-T", "-U", "-L"]),
        ("--json=osquery", &["-j"]),
    ];

    fn config(words: &[&str], is_older: bool) -> Result<String, String> {
        let words = ["tcpconnect"].into_iter().chain(words.iter().flat_map(|w| w.split(' ')));
        let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        let cli = Cli::try_parse_from(words).map_err(|e| e.to_string())?;
        Config::new(cli, is_older).map(|config| format!("{config:?}"))
    }

    #[test]
    fn each_option_of_the_program_has_a_rule_and_a_test() {
        use clap::CommandFactory as _;
        let has_rule = |flag: &str| OPTIONS.iter().any(|(name, _)| *name == flag);
        let named =
            |flag: &str| ALL.iter().any(|(words, _)| words.split([' ', '=']).next() == Some(flag));
        for option in Cli::command().get_arguments() {
            let long = option.get_long().map(|long| format!("--{long}"));
            let short = option.get_short().map(|short| format!("-{short}"));
            let flags = [long, short];
            let is_known = flags.iter().flatten().any(|flag| named(flag))
                && flags.iter().flatten().any(|flag| has_rule(flag));
            let ends = ["help", "version", "ebpf", "command"].contains(&option.get_id().as_str());
            assert!(is_known || ends, "{}", option.get_id());
        }
    }

    #[test]
    fn no_pair_of_options_is_passed_over_in_silence() {
        for (a, of_a) in ALL {
            for (b, of_b) in ALL.iter().filter(|(b, _)| b != a) {
                let (first, both) = (config(&[of_a, a], false), config(&[of_a, a, of_b, b], false));
                let (Ok(first), Ok(both)) = (first, both) else { continue };
                let is_part = PART_OF.iter().any(|(all, parts)| {
                    all == a && parts.contains(b)
                        || of_a == b
                        || of_b == a && all == b && parts.contains(a)
                });
                assert!(first != both || is_part || of_a == b, "{a} {b} is as {a} alone");
            }
        }
    }

    /// Which is what a run does not see, whatever the configuration says.
    #[test]
    fn no_kind_of_run_takes_what_it_has_no_use_for() {
        for (kind, others) in [
            (
                "-s",
                "-t|-T|-L|-U|-d|-f|-r|--life|--accept|--peer|-e|-c|--procs|--cgroupmap x|--duration 1|--attach kprobe|--sandbox off|--btf x|-r --min-latency 1|--peer --keep 1|--life --max-connections 9|-p 1 --children",
            ),
            (
                "-s --json=osquery",
                "-x|-a|--parents|--user|--container-id|--cgroup-path|--netns-id|--vpid|--wide",
            ),
            (
                "-c",
                "-d|--to-name a|-f|-r|--life|--accept|--peer|-x|-a|--parents|--user|--wide|-e|--procs|-n 1",
            ),
            (
                "--procs=only",
                "-L|-d|-f|-r|--life|--accept|--peer|-P 80|--to ::1|--not-to ::1|-4|-6|--netns 1|--cgroupmap x|-e|--vpid|--netns-id|--parents|--container-id|--cgroup-path",
            ),
            ("--procs=only -j", "--vpid|--netns-id"),
            (
                "--record x",
                "-j|-o x|-c|-s|-r|--life|--accept|-x|--wide|-d|-t|--read y|--who 192.0.2.1|--procs=only",
            ),
            (
                "--read x",
                "-s|-i 1|-p 1 --children|--keep 1|--cgroupmap x|--mntnsmap x|--duration 1|--ready-fd 3|--attach kprobe|--sandbox off|--buffer perf|--buffer-size 1|--btf x|--life --max-connections 9",
            ),
            ("--procs", "--netns 1|--cgroupmap x|--mntnsmap x"),
            ("-e", "-c|--procs=only|--cgroupmap x|--mntnsmap x"),
        ] {
            for other in others.split('|') {
                assert!(config(&[kind, other], false).is_err(), "{kind} {other}");
            }
        }
        for other in WHO {
            assert!(config(&["-s", other], false).is_ok(), "{other}");
            assert!(config(&["-s=all -j", other], false).is_ok(), "{other}");
        }
        for other in ["--parents", "--container-id", "--cgroup-path"] {
            assert!(config(&["--procs=only -j", other], false).is_ok(), "{other}");
        }
        for other in [
            "-6", "-d", "-s", "-e", "--procs", "-x", "--wide", "--peer", "-r", "--life", "-f",
            "--accept",
        ] {
            let why = config(&[other], true).unwrap_err();
            assert!(why.starts_with("tcpv4connect shows connects over IPv4"), "{other}: {why}");
        }
    }

    #[test]
    fn each_option_that_a_kind_takes_is_an_option() {
        let is_one = |name: &str| {
            name == "COMMAND"
                || ALL
                    .iter()
                    .any(|(words, _)| words.split(' ').next() == Some(name) || *words == name)
        };
        let taken = KINDS.iter().flat_map(|kind| kind.takes.iter().flat_map(|list| list.iter()));
        let paired = NEEDS
            .iter()
            .chain(EXCLUDES)
            .flat_map(|(a, others, _)| [a].into_iter().chain(others.iter()));
        for name in taken.chain(paired) {
            assert!(is_one(name), "{name}");
        }
    }
}
