// SPDX-License-Identifier: Apache-2.0
//! What a run of the tracer is asked for: drawing it, the words that say it, and what
//! its filters want.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use super::actor::Identity;
use super::ends::End;
use super::steps::Dice;
use super::steps::NAMES;
use super::steps::OTHER_USER;

/// What a run of the tracer is asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Connects that fail before their SYN, too.
    pub failed: bool,
    pub result: bool,
    pub life: bool,
    pub accept: bool,
    pub existing: bool,
    pub peer: bool,
    pub who: bool,
    /// Names of destinations.
    pub names: bool,
    /// What processes do, too.
    pub procs: bool,
    /// Only a table of how many connects there were.
    pub count: bool,
    /// Such a table each second; together they have all.
    pub interval: bool,
    /// Only the sockets that there are at the step `Trace`.
    pub snapshot: bool,
    /// All of them must hold.
    pub only: Vec<Only>,
    /// -r tells only those that took `SLOW`.
    pub slow: bool,
    /// Not JSON.
    pub table: bool,
    /// Its rows are read from what another run has recorded.
    pub recorded: bool,
    /// All processes of a scenario are in it: what else the machine does is not shown.
    pub cgroup: Option<String>,
    /// Paths of cgroups, too.
    pub paths: bool,
    /// What watches over the container is in the tracer's mount namespace: else nothing that it
    /// says is believed.
    pub believes_monitor: bool,
    /// What `Only::Pid`, `Only::Family` and `Only::Netns` mean, once it exists.
    pub named: Named,
}

/// A filter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Only {
    Port(u16),
    Comm(&'static str),
    V4,
    V6,
    /// Destinations in this network: the prefix has whole bytes.
    To(&'static str),
    NotTo(&'static str),
    Uid(u32),
    /// The first process of each scenario.
    Pid,
    /// And its descendants.
    Family,
    /// That of the first scenario.
    Netns,
    /// The cgroup in that of the scenarios, where what else the machine does is not shown.
    Inner,
    /// The same, by the name that its container has.
    Container,
    /// The other end of any connection; also says what is shown of it.
    Who(&'static str, Option<u16>),
}

/// What exists before the tracer, and the tracer is told of.
#[derive(Clone, Debug, Default)]
pub struct Named {
    pub pids: Vec<u32>,
    pub netns: u32,
    /// That of the scenarios, and the one in it: id and path.
    pub cgroups: [(u64, String); 2],
}

/// What `Options::slow` waits for.
pub const SLOW: Duration = Duration::from_millis(500);

/// All that is drawn at once.
const ONLY: [Only; 20] = [
    Only::Port(40_001),
    Only::Comm(NAMES[0]),
    Only::V4,
    Only::V6,
    Only::To("127.0.0.0/8"),
    Only::To("::1"),
    Only::NotTo("127.0.0.1"),
    Only::NotTo("198.51.100.0/24"),
    Only::Uid(0),
    Only::Uid(OTHER_USER),
    Only::Pid,
    Only::Pid,
    Only::Family,
    Only::Netns,
    Only::Inner,
    Only::Inner,
    Only::Container,
    Only::Container,
    Only::Who("127.0.0.1", None),
    Only::Who("::1", Some(40_001)),
];

impl Options {
    /// `alone`: whether nobody else makes connections here.
    pub fn draw(dice: &mut Dice, attach: &str, cgroup: &str, alone: bool) -> Self {
        let half = |dice: &mut Dice| dice.one_in(2);
        let mut options = Options {
            // The others see none.
            failed: dice.one_in(4) && ["fentry", "kprobe"].contains(&attach),
            result: half(dice),
            life: half(dice),
            accept: half(dice),
            existing: dice.one_in(3),
            peer: dice.one_in(3),
            who: half(dice),
            names: dice.one_in(4),
            procs: dice.one_in(6),
            count: false,
            interval: false,
            snapshot: false,
            only: (0..dice.of(&[0, 0, 0, 1, 1, 1, 2])).map(|_| dice.of(&ONLY)).collect(),
            slow: false,
            table: dice.one_in(5),
            recorded: dice.one_in(4),
            cgroup: None,
            paths: dice.one_in(4),
            believes_monitor: true,
            named: Named::default(),
        };
        // They exclude each other, or are one option that is given once.
        options.only.dedup_by_key(|only| match only {
            Only::V6 => Only::V4,
            Only::Family => Only::Pid,
            Only::Uid(_) => Only::Uid(0),
            // Of a list one match would be enough.
            Only::To(_) => Only::To(""),
            Only::Who(..) => Only::Who("", None),
            other => *other,
        });
        match dice.below(16) {
            0 => options.shows_only_counts(dice.one_in(2)),
            1 => options.shows_only_sockets(),
            _ if options.asks_who_has() => options.shows_all_of_one_end(),
            _ => {}
        }
        options.slow = options.result && dice.one_in(4);
        if options.only.contains(&Only::Family) {
            options.runs_in_own_mounts();
        }
        // Names with blanks in them could be told apart no more.
        options.peer &= !options.table;
        options.who &= !options.table;
        options.names &= !options.table;
        // What nobody holds is in no cgroup; and of two that are asked for one is enough.
        let is_bounded = !options.existing
            && !options.snapshot
            && !options.only.contains(&Only::Container)
            && (!alone || dice.one_in(4));
        options.cgroup = is_bounded.then(|| cgroup.to_owned());
        // What processes do is narrowed by few filters; of those the model knows three.
        let is_of_sockets =
            |only: &Only| !matches!(only, Only::Netns | Only::Inner | Only::Comm(_));
        options.procs &= !options.table && options.only.iter().all(is_of_sockets);
        if options.procs {
            options.cgroup = None;
        }
        options.recorded &= !options.procs && !options.count && !options.snapshot;
        options
    }

    /// Its start is held up by files that lie over others, in a mount namespace of its own.
    pub fn runs_in_own_mounts(&mut self) {
        self.believes_monitor = false;
        self.only.retain(|only| *only != Only::Container);
    }

    fn shows_only_counts(&mut self, interval: bool) {
        self.only.retain(|only| !matches!(only, Only::Who(..)));
        let only = std::mem::take(&mut self.only);
        *self = Options { count: true, interval, only, ..Options::default() };
    }

    fn shows_only_sockets(&mut self) {
        self.only.retain(|only| !matches!(only, Only::Who(..) | Only::Family));
        *self =
            Options { snapshot: true, only: std::mem::take(&mut self.only), ..Options::default() };
    }

    fn asks_who_has(&self) -> bool {
        self.only.iter().any(|only| matches!(only, Only::Who(..)))
    }

    fn shows_all_of_one_end(&mut self) {
        let others = [Only::Port(40_001), Only::To("127.0.0.0/8"), Only::To("::1")];
        self.only.retain(|only| !others.contains(only) && !matches!(only, Only::NotTo(_)));
        (self.existing, self.accept, self.who, self.table) = (true, true, true, false);
    }

    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        // --who says them.
        let says_them = self.asks_who_has();
        let flags = [
            (!self.table, "-j"),
            (self.table, "-UL"),
            (self.table, "--netns-id"),
            (self.failed, "-f"),
            (self.result, "-r"),
            (self.life, "--life"),
            (self.accept && !says_them, "--accept"),
            (self.existing && !says_them, "-e"),
            (self.peer, "--peer"),
            (self.who && !says_them, "--wide"),
            (self.names, "-d"),
            (self.procs, "--procs"),
            (self.paths, "--cgroup-path"),
            (self.count, "-c"),
            (self.interval, "-i1"),
            (self.snapshot, "-s"),
        ];
        words.extend(flags.iter().filter(|(on, _)| *on).map(|(_, flag)| (*flag).to_owned()));
        for only in &self.only {
            words.extend(only.words(&self.named));
        }
        if self.slow {
            words.extend(["--min-latency".into(), SLOW.as_millis().to_string()]);
        }
        if self.slow && !self.recorded {
            words.extend(["--max-connections".into(), "64".into()]);
        }
        words.extend(self.words_of_cgroup());
        words
    }

    fn words_of_cgroup(&self) -> Vec<String> {
        let Some(cgroup) = &self.cgroup else { return Vec::new() };
        let inner = match self.only.contains(&Only::Inner) {
            true => format!("/{}", container_id()),
            false => String::new(),
        };
        vec!["--cgroup".into(), format!("{cgroup}{inner}")]
    }

    /// Of a run that records all that `words_to_read` may ask for.
    pub fn words_to_record(&self, folder: &str) -> Vec<String> {
        let mut words = vec!["--record".to_owned(), folder.to_owned()];
        let flags = [(self.failed, "-f"), (self.existing, "-e"), (self.peer, "--peer")];
        words.extend(flags.iter().filter(|(on, _)| *on).map(|(_, flag)| (*flag).to_owned()));
        // Whose descendants processes are is not written down.
        if self.only.contains(&Only::Family) {
            words.extend(Only::Family.words(&self.named));
        }
        words.extend(self.words_of_cgroup());
        words
    }

    /// Of the one that shows it.
    pub fn words_to_read(&self, folder: &str) -> Vec<String> {
        let mut others = self.clone();
        others.only.retain(|only| *only != Only::Family);
        [vec!["--read".to_owned(), folder.to_owned()], others.words()].concat()
    }

    /// Whether what this process does shows.
    pub fn want_life(&self, who: &Identity, forked: impl Fn(u32) -> Option<u32>) -> bool {
        let is_of = |pid: u32| self.named.pids.contains(&pid);
        self.only.iter().all(|only| match only {
            Only::Pid => is_of(who.pid),
            Only::Family => std::iter::successors(Some(who.pid), |&pid| forked(pid)).any(is_of),
            Only::Uid(uid) => who.uid == *uid,
            Only::Container => self.is_inside(who),
            _ => true,
        })
    }

    /// Whether it is in the container.
    pub fn is_inside(&self, who: &Identity) -> bool {
        who.cgroup == self.named.cgroups[1].0
    }

    /// Whether the processes must be there before the tracer.
    pub fn names_what_exists(&self) -> bool {
        let is_one = |only: &Only| matches!(only, Only::Pid | Only::Family | Only::Netns);
        self.existing || self.snapshot || self.only.iter().any(is_one)
    }

    pub fn is_v6(&self) -> bool {
        self.only.contains(&Only::V6)
    }

    /// Whether its rows show, when `who` is the process behind them. `to` is what ports and
    /// networks mean, `forked` says who forked a process.
    pub fn want(
        &self,
        end: &End,
        who: &Identity,
        to: Option<SocketAddr>,
        forked: impl Fn(u32) -> Option<u32>,
    ) -> bool {
        let remote = end.remote.ip();
        let is_of = |pid: u32| self.named.pids.contains(&pid);
        let leads_to = |net: &str| to.is_some_and(|to| is_in(to.ip().to_canonical(), net));
        self.only.iter().all(|only| match only {
            Only::Port(port) => to.is_some_and(|to| to.port() == *port),
            Only::Comm(name) => who.comm == *name,
            Only::V4 => remote.to_canonical().is_ipv4(),
            // An IPv6 socket, whatever its addresses.
            Only::V6 => remote.is_ipv6(),
            Only::To(net) => leads_to(net),
            Only::NotTo(net) => !leads_to(net),
            Only::Uid(uid) => who.uid == *uid,
            Only::Pid => is_of(who.pid),
            Only::Family => std::iter::successors(Some(who.pid), |&pid| forked(pid)).any(is_of),
            Only::Netns => who.netns == self.named.netns,
            Only::Inner => self.cgroup.is_none() || self.is_inside(who),
            Only::Container => self.is_inside(who),
            Only::Who(host, port) => {
                is_in(remote.to_canonical(), host)
                    && port.is_none_or(|port| port == end.remote.port())
            }
        })
    }
}

impl Only {
    fn words(self, named: &Named) -> Vec<String> {
        let pids = || match named.pids.is_empty() {
            true => "PIDS".into(),
            false => named.pids.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        };
        match self {
            Only::Port(port) => vec!["-P".into(), port.to_string()],
            Only::Comm(name) => vec!["--comm".into(), name.into()],
            Only::V4 => vec!["-4".into()],
            Only::V6 => vec!["-6".into()],
            Only::To(net) => vec!["--to".into(), net.into()],
            Only::NotTo(net) => vec!["--not-to".into(), net.into()],
            Only::Uid(uid) => vec!["-u".into(), uid.to_string()],
            Only::Pid => vec!["-p".into(), pids()],
            Only::Family => vec!["-p".into(), pids(), "--children".into()],
            Only::Inner => Vec::new(),
            Only::Container => vec!["--container".into(), container_name()],
            Only::Netns => vec!["--netns".into(), named.netns.to_string()],
            Only::Who(host, None) => vec!["--who".into(), host.into()],
            Only::Who(host, Some(port)) => vec!["--who".into(), format!("[{host}]:{port}")],
        }
    }
}

/// Of the container that is the inner cgroup.
pub fn container_name() -> String {
    format!("model-{}", std::process::id())
}

pub fn container_id() -> String {
    format!("{:064x}", std::process::id())
}

/// An address in a network of that many bits, which are whole bytes.
fn is_in(ip: IpAddr, net: &str) -> bool {
    let (start, bits) = net.split_once('/').unwrap_or((net, "128"));
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (ip, start) = (bytes(ip), bytes(start.parse().expect("an address")));
    let whole = (bits.parse::<usize>().expect("a number") / 8).min(start.len());
    ip.len() == start.len() && ip[..whole] == start[..whole]
}
