// SPDX-License-Identifier: Apache-2.0
//! The command line as typed: options, their short help and the rules of one option
//! alone. The long help is in `help`, rules between options are in `rules`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction;
use clap::Parser;
use clap::ValueEnum;

use crate::config::help;
use crate::config::values::Whom;
use crate::config::values::parse_container;
use crate::config::values::parse_glob;
use crate::config::values::parse_milliseconds;
use crate::config::values::parse_pid;
use crate::config::values::parse_record_age;
use crate::config::values::parse_record_size;
use crate::config::values::parse_seconds;
use crate::config::values::parse_size;
use crate::config::values::parse_unit;
use crate::config::when::When;
use crate::model::filter::CommFilter;
use crate::model::filter::Net;
use crate::model::filter::PodFilter;
use crate::model::filter::PortSet;

/// Some 800 MiB of kernel memory.
const MAX_CONNECTIONS: i64 = 4_194_304;

/// How to attach to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attach {
    /// The first that attaches of sockops, fentry and kprobe; where accepts are seen, too, or
    /// below the root of the cgroups, of fentry, kprobe and sockops
    Auto,
    /// fexit programs on tcp_v4_connect() and tcp_v6_connect()
    Fentry,
    /// A kprobe and a kretprobe on each of these two
    Kprobe,
    /// A sockops program on the root of the cgroup v2 hierarchy
    Sockops,
}

/// How records leave the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Buffer {
    /// The ring buffer where the kernel has one (5.8), else the perf buffer
    Auto,
    /// One ring buffer, in which a storm of one user leaves room for others
    Ring,
    /// A perf buffer for each CPU, in which nobody has a share: one user's storm may lose what
    /// others do, and is counted as "buffer"
    Perf,
}

/// How this program confines itself once it traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sandbox {
    /// As far as this kernel can
    Auto,
    /// In all ways that this run allows, or else it ends with status 1
    Strict,
    /// No further than giving up capabilities
    Off,
}

/// What a recording keeps of arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RecordArgs {
    /// As they are, passwords included
    Full,
    /// Without values that look like secrets
    Redacted,
    /// The first of them, the program's name
    First,
    /// Nothing
    None,
}

impl RecordArgs {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            RecordArgs::Full => "full",
            RecordArgs::Redacted => "redacted",
            RecordArgs::First => "first",
            RecordArgs::None => "none",
        }
    }
}

/// What `--procs` adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Procs {
    /// Process events between the connects; the same as without =WHAT
    With,
    /// Process events alone
    Only,
}

/// What a line of JSON looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JsonForm {
    /// The objects of tcpconnect-json(5); the same as without =FORM
    Native,
    /// With --snapshot: the columns of osquery's process_open_sockets
    Osquery,
}

/// What `--snapshot` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Snapshot {
    /// TCP connections; the same as without =WHAT
    Connections,
    /// TCP, UDP, raw and UNIX sockets in any state
    All,
}

const EXAMPLES: &str = "\
Examples:
  tcpconnect                        # trace all TCP connect()s
  tcpconnect -t                     # include timestamps
  tcpconnect -p 181                 # only trace PID 181
  tcpconnect -P 80                  # only trace port 80
  tcpconnect -P 80,81               # only trace port 80 and 81
  tcpconnect -4                     # only trace IPv4 family
  tcpconnect -6                     # only trace IPv6 family
  tcpconnect -U                     # include UID
  tcpconnect -u 1000                # only trace UID 1000
  tcpconnect -c                     # count connects per src ip and dest ip/port
  tcpconnect -L                     # include LPORT while printing outputs
  tcpconnect --cgroupmap mappath    # only trace cgroups in this BPF map
  tcpconnect --mntnsmap mappath     # only trace mount namespaces in the map
  tcpconnect -j -- curl -s URL      # what does this command connect to?
  tcpconnect -p 181 --children      # a process and all its descendants
  tcpconnect --to 10.0.0.0/8 -T     # who talks to this network, and when
  tcpconnect -d                     # with the name that was looked up
  tcpconnect --cgroup system.slice/nginx.service
  tcpconnect --wide                 # with executable, arguments and parents
  tcpconnect -f                     # also without a route or port, or forbidden
  tcpconnect -c -i 10 --duration 60 # a table every 10 seconds, for a minute
  tcpconnect -s --to 10.0.0.0/8     # who is connected to this network now
  tcpconnect --read FILE -P 443     # what a run with -j -o FILE has seen";

/// The aliases are the abbreviations that mean one option of BCC's tool and would
/// mean several here.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tcpconnect",
    version = concat!(
        env!("CARGO_PKG_VERSION"), "\n",
        "commit: ", env!("COMMIT"), "\n",
        "features: ", env!("FEATURES"), "\n",
        "hooks: fentry, kprobe, sockops; buffers: ring, perf\n",
        "BPF built by ", env!("CLANG_VERSION"), "\n",
        "target: ", env!("TARGET")
    ),
    about = "Trace TCP connects: which process opened this connection?",
    long_about = help::ABOUT,
    after_help = EXAMPLES,
    disable_help_flag = true,
    disable_version_flag = true,
    infer_long_args = true,
    args_override_self = true,
    max_term_width = 100,
    override_usage = "tcpconnect [OPTIONS] [-- COMMAND [ARGS]...]"
)]
pub struct Cli {
    /// Include a column of seconds since the first row
    #[arg(short = 't', long, aliases = ["t", "ti", "tim"],
          long_help = help::TIMESTAMP, help_heading = "Columns")]
    pub timestamp: bool,

    /// Include a column of the time of day, HH:MM:SS.mmm
    #[arg(short = 'T', long, long_help = help::TIME, help_heading = "Columns")]
    pub time: bool,

    /// Include LPORT, the local port
    #[arg(short = 'L', long, aliases = ["l"], long_help = help::LPORT, help_heading = "Columns")]
    pub lport: bool,

    /// Include UID, the real user id
    #[arg(short = 'U', long, aliases = ["pr"],
          long_help = help::PRINT_UID, help_heading = "Columns")]
    pub print_uid: bool,

    /// Include QUERY, the name whose DNS answer held the destination
    #[arg(short = 'd', long, aliases = ["d"], long_help = help::DNS, help_heading = "Columns")]
    pub dns: bool,

    /// Connects that fail at once, too, with ERR
    #[arg(short = 'f', long, long_help = help::FAILED, help_heading = "Outcome")]
    pub failed: bool,

    /// One row for each connect when its outcome is known, with RESULT and LAT(ms)
    #[arg(short = 'r', long, long_help = help::RESULT, help_heading = "Outcome")]
    pub result: bool,

    /// With -r: only those that took longer, in milliseconds
    #[arg(long, value_name = "MS", value_parser = parse_milliseconds,
          long_help = help::MIN_LATENCY, help_heading = "Outcome")]
    pub min_latency: Option<Duration>,

    /// One row for each connection when it ends, with MS, TX_KB, RX_KB and RETR
    #[arg(long, long_help = help::LIFE, help_heading = "Outcome")]
    pub life: bool,

    /// Connections that are accepted, too, with T: C connect, A accept, X end
    #[arg(long, long_help = help::ACCEPT, help_heading = "Outcome")]
    pub accept: bool,

    /// Include PEER, the process on the other end, if that is on this host
    #[arg(long, long_help = help::PEER, help_heading = "Outcome")]
    pub peer: bool,

    /// With --peer: remember both ends this long after a close [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds,
          long_help = help::KEEP, help_heading = "Outcome")]
    pub keep: Option<Duration>,

    /// With -r, --life or --peer: follow this many that are open at once [default: 65536]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_CONNECTIONS),
          long_help = help::MAX_CONNECTIONS, help_heading = "Outcome")]
    pub max_connections: Option<u32>,

    /// Include EXE, the path of the executable
    #[arg(short = 'x', long, long_help = help::EXE, help_heading = "Who")]
    pub exe: bool,

    /// Include ARGS, the arguments, quoted for a shell
    #[arg(short = 'a', long, long_help = help::ARGS, help_heading = "Who")]
    pub args: bool,

    /// Include PARENTS, from the parent up to pid 1
    #[arg(long, long_help = help::PARENTS, help_heading = "Who")]
    pub parents: bool,

    /// Include USER, the user's name, in place of UID
    #[arg(long, long_help = help::USER, help_heading = "Who")]
    pub user: bool,

    /// Include CONTAINER, the name of the container, or NAMESPACE/POD/NAME
    #[arg(long, long_help = help::CONTAINER_NAME, help_heading = "Who")]
    pub container_name: bool,

    /// Include IMAGE, what the container was made of
    #[arg(long, long_help = help::IMAGE, help_heading = "Who")]
    pub image: bool,

    /// Include CONTAINER_ID, the short id of the container
    #[arg(long, long_help = help::CONTAINER_ID, help_heading = "Who")]
    pub container_id: bool,

    /// Include CGROUP, the path of the cgroup
    #[arg(long, long_help = help::CGROUP_PATH, help_heading = "Who")]
    pub cgroup_path: bool,

    /// Include NETNS, the inode of the network namespace
    #[arg(long, long_help = help::NETNS_ID, help_heading = "Who")]
    pub netns_id: bool,

    /// Include VPID, the pid in the process's own pid namespace
    #[arg(long, long_help = help::VPID, help_heading = "Who")]
    pub vpid: bool,

    /// What an investigator wants: -T -U -L -x -a --parents --container-name
    #[arg(long, long_help = help::WIDE, help_heading = "Who")]
    pub wide: bool,

    /// Process events too: fork, exec, uid, gid, sid, ptrace, comm, coredump, exit
    #[arg(long, value_name = "WHAT", num_args = 0..=1, require_equals = true,
          default_missing_value = "with", long_help = help::PROCS, help_heading = "Who")]
    pub procs: Option<Procs>,

    /// First the connections that exist, with T: E; then what happens
    #[arg(short = 'e', long, long_help = help::EXISTING, help_heading = "Now")]
    pub existing: bool,

    /// Who has, or gets, a connection with this address or name? -e --accept --wide, only matching rows
    #[arg(long, value_name = "ADDR[:PORT]|NAME", long_help = help::WHO, help_heading = "Now")]
    pub who: Option<Whom>,

    /// Print the sockets that exist now and who holds them, then exit
    #[arg(short = 's', long, value_name = "WHAT", num_args = 0..=1, require_equals = true,
          default_missing_value = "connections", long_help = help::SNAPSHOT, help_heading = "Now")]
    pub snapshot: Option<Snapshot>,

    /// Keep what is traced in this folder: outcomes, ends, accepts, and who
    #[arg(long, value_name = "DIR", long_help = help::RECORD, help_heading = "Past")]
    pub record: Option<PathBuf>,

    /// With --record: bytes of all its files, with K, M, G or T [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = parse_record_size,
          long_help = help::RECORD_SIZE, help_heading = "Past")]
    pub record_size: Option<u64>,

    /// With --record: how long they are kept [default: 30d]
    #[arg(long, value_name = "TIME", value_parser = parse_record_age,
          long_help = help::RECORD_AGE, help_heading = "Past")]
    pub record_age: Option<Duration>,

    /// With --record: what is kept of arguments
    #[arg(long, value_name = "WHAT", default_value = "redacted",
          long_help = help::RECORD_ARGS, help_heading = "Past")]
    pub record_args: RecordArgs,

    /// Rows of what was written before: files of JSON lines, folders of them, or - for stdin
    #[arg(long, value_name = "PATH", num_args = 1.., long_help = help::READ, help_heading = "Past")]
    pub read: Vec<PathBuf>,

    /// With --read or --who: what happened then or later: -7d, '2 hours ago', 'tuesday 14:00'
    #[arg(long, value_name = "TIME", allow_hyphen_values = true,
          long_help = help::SINCE, help_heading = "Past")]
    pub since: Option<When>,

    /// With --read or --who: what happened before: -7d, yesterday, 2026-11-24T10:00Z
    #[arg(long, value_name = "TIME", allow_hyphen_values = true,
          long_help = help::UNTIL, help_heading = "Past")]
    pub until: Option<When>,

    /// Only these processes, any number of them
    #[arg(short = 'p', long, value_name = "PID[,PID]", value_delimiter = ',',
          value_parser = parse_pid, long_help = help::PID, help_heading = "Filters")]
    pub pid: Vec<u32>,

    /// With -p: also their descendants, alive or yet to be born
    #[arg(long, long_help = help::CHILDREN, help_heading = "Filters")]
    pub children: bool,

    /// Only these destination ports: 80,443,8000-8100
    #[arg(short = 'P', long, aliases = ["po"], value_name = "PORTS",
          long_help = help::PORT, help_heading = "Filters")]
    pub port: Option<PortSet>,

    /// Only these destinations: addresses or networks in CIDR form
    #[arg(long, value_name = "NET[,NET]", value_delimiter = ',',
          long_help = help::TO, help_heading = "Filters")]
    pub to: Vec<Net>,

    /// No destination in these networks
    #[arg(long, value_name = "NET[,NET]", value_delimiter = ',',
          long_help = help::NOT_TO, help_heading = "Filters")]
    pub not_to: Vec<Net>,

    /// Only destinations with a name like this: '*.example.com'; with -d
    #[arg(long, value_name = "GLOB", value_parser = parse_glob,
          long_help = help::TO_NAME, help_heading = "Filters")]
    pub to_name: Option<glob::Pattern>,

    /// Only IPv4 (IPv4-mapped addresses included)
    #[arg(short = '4', long, long_help = help::IPV4, help_heading = "Filters")]
    pub ipv4: bool,

    /// Only IPv6 sockets (IPv4-mapped addresses print as ::ffff:a.b.c.d)
    #[arg(short = '6', long, conflicts_with = "ipv4",
          long_help = help::IPV6, help_heading = "Filters")]
    pub ipv6: bool,

    /// Only this real user id
    #[arg(short = 'u', long, aliases = ["u"], value_name = "UID",
          long_help = help::UID, help_heading = "Filters")]
    pub uid: Option<u32>,

    /// Only threads of exactly this name
    #[arg(long, value_name = "NAME", long_help = help::COMM, help_heading = "Filters")]
    pub comm: Option<CommFilter>,

    /// Only tasks in this cgroup v2 directory or below; may be repeated
    #[arg(long, value_name = "PATH", long_help = help::CGROUP, help_heading = "Filters")]
    pub cgroup: Vec<PathBuf>,

    /// Only this container, by its id (6 digits or more) or the name that people use
    #[arg(long, value_name = "ID|NAME", value_parser = parse_container,
          long_help = help::CONTAINER, help_heading = "Filters")]
    pub container: Vec<String>,

    /// Only containers of this pod, with wildcards; may be repeated
    #[arg(long, value_name = "[NAMESPACE/]NAME", long_help = help::POD, help_heading = "Filters")]
    pub pod: Vec<PodFilter>,

    /// Only this systemd unit; may be repeated
    #[arg(long, value_name = "NAME", value_parser = parse_unit,
          long_help = help::UNIT, help_heading = "Filters")]
    pub unit: Vec<String>,

    /// Only this network namespace; a name is looked up in /run/netns
    #[arg(long, value_name = "PID|PATH|INODE", long_help = help::NETNS, help_heading = "Filters")]
    pub netns: Option<String>,

    /// Only cgroups whose id is a key of this pinned BPF map
    #[arg(short = 'C', long, aliases = ["cg", "cgr", "cgro", "cgrou"], value_name = "PATH",
          long_help = help::CGROUPMAP, help_heading = "Filters")]
    pub cgroupmap: Option<PathBuf>,

    /// Only mount namespaces whose inode is a key of this pinned BPF map
    #[arg(short = 'M', long, aliases = ["m"], value_name = "PATH",
          long_help = help::MNTNSMAP, help_heading = "Filters")]
    pub mntnsmap: Option<PathBuf>,

    /// One JSON object a line
    #[arg(short = 'j', long, value_name = "FORM", num_args = 0..=1, require_equals = true,
          default_missing_value = "native", long_help = help::JSON, help_heading = "Output")]
    pub json: Option<JsonForm>,

    /// Count connects per source address, destination address and port
    #[arg(short = 'c', long, aliases = ["co"], long_help = help::COUNT, help_heading = "Output")]
    pub count: bool,

    /// With -c: print and reset the table this often
    #[arg(short = 'i', long, value_name = "SECONDS", value_parser = parse_seconds,
          long_help = help::INTERVAL, help_heading = "Output")]
    pub interval: Option<Duration>,

    /// Write rows to this file instead of stdout
    #[arg(short = 'o', long, value_name = "FILE",
          long_help = help::OUTPUT, help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Stop after this many rows
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..),
          long_help = help::MAX_EVENTS, help_heading = "Output")]
    pub max_events: Option<u64>,

    /// Stop after this time
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds,
          long_help = help::DURATION, help_heading = "Output")]
    pub duration: Option<Duration>,

    /// Write a newline to this descriptor and close it once tracing is on
    #[arg(long, value_name = "FD", value_parser = clap::value_parser!(i32).range(0..),
          long_help = help::READY_FD, help_heading = "Output")]
    pub ready_fd: Option<i32>,

    /// Kernel hook
    #[arg(long, value_name = "HOOK", default_value = "auto",
          long_help = help::ATTACH, help_heading = "Kernel")]
    pub attach: Attach,

    /// Transport from the kernel
    #[arg(long, value_name = "KIND", default_value = "auto",
          long_help = help::BUFFER, help_heading = "Kernel")]
    pub buffer: Buffer,

    /// Buffer size in bytes, K or M: of the ring, or of each CPU's perf buffer
    #[arg(long, value_name = "SIZE", value_parser = parse_size,
          long_help = help::BUFFER_SIZE, help_heading = "Kernel")]
    pub buffer_size: Option<usize>,

    /// Confine itself once it traces: as far as this kernel can, or else fail, or not
    #[arg(long, value_name = "HOW", default_value = "auto",
          long_help = help::SANDBOX, help_heading = "Kernel")]
    pub sandbox: Sandbox,

    /// BTF file, for a kernel without its own
    #[arg(long, value_name = "FILE", long_help = help::BTF, help_heading = "Kernel")]
    pub btf: Option<PathBuf>,

    /// Say on stderr what was attached, and why not something better
    #[arg(short = 'v', long, long_help = help::VERBOSE, help_heading = "General")]
    pub verbose: bool,

    /// Say what this host gives a run with these options, and what not; trace nothing
    #[arg(long, long_help = help::CHECK, help_heading = "General")]
    pub check: bool,

    /// Print help
    #[arg(short = 'h', long, action = ArgAction::Help,
          long_help = help::HELP, help_heading = "General")]
    pub help: Option<bool>,

    /// Print version and build facts
    #[arg(short = 'V', long, action = ArgAction::Version,
          long_help = help::VERSION, help_heading = "General")]
    pub version: Option<bool>,

    /// Print the BPF program text
    #[arg(long, aliases = ["e"], hide = true)]
    pub ebpf: bool,

    /// Run this command; trace only it and its descendants
    #[arg(last = true, value_name = "COMMAND", long_help = help::COMMAND)]
    pub command: Vec<OsString>,
}
