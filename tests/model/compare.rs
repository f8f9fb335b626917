// SPDX-License-Identifier: Apache-2.0
//! From what happened and the options to the rows that must be there, and the
//! difference to those that are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::actor::Identity;
use super::steps::Dice;
use super::truth::By;
use super::truth::End;
use super::truth::EndId;
use super::truth::Event;
use super::truth::Truth;

/// What a run of the tracer is asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub result: bool,
    pub life: bool,
    pub accept: bool,
    pub existing: bool,
    pub peer: bool,
    pub who: bool,
    pub only: Only,
    /// -r tells only those that took `SLOW`.
    pub slow: bool,
    /// Not JSON.
    pub table: bool,
    /// All processes of a scenario are in it: what else the machine does is not shown.
    pub cgroup: Option<String>,
}

/// A filter. A process is one of the scenario's first two, which exist before it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Only {
    #[default]
    All,
    Port(u16),
    Comm(&'static str),
    V4,
    V6,
}

/// Names that processes give themselves.
pub const NAMES: [&str; 3] = ["one", "two\x1b[31m", "a fifteen bytes"];

impl Options {
    /// `alone`: whether nobody else makes connections here.
    pub fn draw(dice: &mut Dice, cgroup: &str, alone: bool) -> Self {
        let half = |dice: &mut Dice| dice.one_in(2);
        let mut options = Options {
            result: half(dice),
            life: half(dice),
            accept: half(dice),
            existing: dice.one_in(3),
            peer: dice.one_in(3),
            who: half(dice),
            only: dice.of(&[
                Only::All,
                Only::All,
                Only::All,
                Only::Port(40_001),
                Only::Comm("one"),
                Only::V4,
                Only::V6,
            ]),
            slow: false,
            table: dice.one_in(5),
            cgroup: None,
        };
        options.slow = options.result && dice.one_in(4);
        // Names with blanks in them could be told apart no more.
        options.peer &= !options.table;
        options.who &= !options.table;
        // That -e refuses.
        let is_bounded = !options.existing && (!alone || dice.one_in(4));
        options.cgroup = is_bounded.then(|| cgroup.to_owned());
        options
    }

    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let flags = [
            (!self.table, "-j"),
            (self.table, "-UL"),
            (self.table, "--netns-id"),
            (self.result, "-r"),
            (self.life, "--life"),
            (self.accept, "--accept"),
            (self.existing, "-e"),
            (self.peer, "--peer"),
            (self.who, "--wide"),
        ];
        words.extend(flags.iter().filter(|(on, _)| *on).map(|(_, flag)| (*flag).to_owned()));
        match self.only {
            Only::All => {}
            Only::Port(port) => words.extend(["-P".into(), port.to_string()]),
            Only::Comm(name) => words.extend(["--comm".into(), name.into()]),
            Only::V4 => words.push("-4".into()),
            Only::V6 => words.push("-6".into()),
        }
        if self.slow {
            let slow = SLOW.as_millis().to_string();
            words.extend(["--min-latency".into(), slow, "--max-connections".into(), "64".into()]);
        }
        if let Some(cgroup) = &self.cgroup {
            words.extend(["--cgroup".into(), cgroup.clone()]);
        }
        words
    }

    fn wants(&self, truth: &Truth, end: EndId, who: &Identity) -> bool {
        let end = &truth.ends[end];
        let is_v4 = matches!(end.remote.ip().to_canonical(), IpAddr::V4(_));
        let port = match end.active {
            true => Some(end.remote.port()),
            false => end.local.map(|local| local.port()),
        };
        match self.only {
            Only::All => true,
            Only::Port(only) => port == Some(only),
            Only::Comm(name) => who.comm == name,
            Only::V4 => is_v4,
            // An IPv6 socket, whatever its addresses.
            Only::V6 => matches!(end.remote.ip(), IpAddr::V6(_)),
        }
    }
}

/// What `Options::slow` waits for.
pub const SLOW: Duration = Duration::from_millis(500);

/// A row that must be there, or may. Of each field one of these values; null: absent.
#[derive(Clone, Debug)]
pub struct Expected {
    pub fields: BTreeMap<&'static str, Vec<Value>>,
    pub may_miss: bool,
}

impl Expected {
    /// The record of its program was lost.
    pub fn need_not_say_who(&mut self) {
        for field in ["exe", "args", "ppid"] {
            if let Some(values) = self.fields.get_mut(field) {
                values.push(Value::Null);
            }
        }
    }

    fn fits(&self, row: &Value) -> bool {
        self.fields
            .iter()
            .all(|(name, values)| values.contains(row.get(*name).unwrap_or(&Value::Null)))
    }
}

fn shown(ip: IpAddr, only: Only) -> String {
    if only == Only::V6 { ip.to_string() } else { ip.to_canonical().to_string() }
}

fn row(
    truth: &Truth,
    options: &Options,
    event: &'static str,
    id: EndId,
    who: &Identity,
) -> Expected {
    let end = &truth.ends[id];
    let mut fields: BTreeMap<&'static str, Vec<Value>> = BTreeMap::new();
    let mut put = |name, value: Value| {
        fields.insert(name, vec![value]);
    };
    put("event", json!(event));
    put("pid", json!(who.pid));
    put("tid", json!(who.tid));
    put("comm", json!(who.leader));
    put("thread", if who.comm == who.leader { Value::Null } else { json!(who.comm) });
    put("uid", json!(who.uid));
    put("netns", json!(who.netns));
    put("daddr", json!(shown(end.remote.ip(), options.only)));
    put("dport", json!(end.remote.port()));
    if let Some(local) = end.local {
        put("saddr", json!(shown(local.ip(), options.only)));
        put("lport", json!(local.port()));
    }
    let is_v4 = end.remote.ip().to_canonical().is_ipv4() && options.only != Only::V6;
    put("ip", json!(if is_v4 { 4 } else { 6 }));
    if options.who {
        put("exe", json!(who.exe));
        put("args", json!(who.args));
        put("ppid", json!(who.ppid));
    }
    Expected { fields, may_miss: false }
}

fn with_end(mut expected: Expected, truth: &Truth, id: EndId) -> Expected {
    let end = &truth.ends[id];
    expected.fields.insert("tx_bytes", vec![json!(end.sent)]);
    expected.fields.insert("rx_bytes", vec![json!(end.received)]);
    let is_mptcp = end.mptcp || end.peer.is_some_and(|peer| truth.ends[peer].mptcp);
    if is_mptcp {
        expected.fields.remove("tx_bytes");
        expected.fields.remove("rx_bytes");
    }
    let names: &[&str] = match end.by.filter(|_| !is_mptcp) {
        Some(By::Local) => &["local"],
        Some(By::Remote) => &["remote"],
        Some(By::Reset) => &["reset"],
        Some(By::LocalOrReset) => &["local", "reset"],
        _ => &["local", "remote", "reset"],
    };
    expected.fields.insert("close_by", names.iter().map(|name| json!(name)).collect());
    expected
}

/// Those of the peer that may be named: who made it, one who held it when tracing began,
/// or none.
fn with_peer(
    mut expected: Expected,
    truth: &Truth,
    options: &Options,
    id: EndId,
    held: &[(EndId, Vec<Identity>)],
) -> Expected {
    let mut pids = vec![Value::Null];
    if let Some(peer) = truth.ends[id].peer.filter(|_| options.peer) {
        let holders = held.iter().filter(|(end, _)| *end == peer).flat_map(|(_, who)| who);
        pids.extend(truth.ends[peer].owner.iter().chain(holders).map(|who| json!(who.pid)));
    }
    expected.fields.insert("peer_pid", pids);
    expected
}

/// The rows of a scenario. `traced` is the step before which tracing began, `held` who
/// held what then: only of ends that were open.
pub fn expect(
    truth: &Truth,
    options: &Options,
    traced: usize,
    held: &[(EndId, Vec<Identity>)],
) -> Vec<Expected> {
    let mut rows = Vec::new();
    let shows_connects = !options.result && !options.life;
    let shows_accepts = options.accept && (options.result || !options.life);
    for (step, event) in &truth.events {
        let (Event::Made(id) | Event::Outcome(id, _) | Event::Accepted(id) | Event::Ended(id)) =
            *event;
        let end = &truth.ends[id];
        let Some(who) = &end.owner else { continue };
        let is_old = end.since < traced;
        if *step < traced
            || is_old && !matches!(event, Event::Ended(_))
            || !options.wants(truth, id, who)
        {
            continue;
        }
        let expected = match event {
            Event::Made(_) if shows_connects => row(truth, options, "connect", id, who),
            Event::Outcome(_, result) if options.result && end.active => {
                let mut expected = row(truth, options, "result", id, who);
                expected.fields.insert("result", vec![json!(result)]);
                if options.slow && end.latency.1 < SLOW {
                    continue;
                }
                expected.may_miss = options.slow && end.latency.0 < SLOW;
                expected
            }
            Event::Accepted(_) if shows_accepts => row(truth, options, "accept", id, who),
            // An end that waited to be accepted before tracing has no beginning.
            Event::Ended(_) if options.life && !is_old && (end.active || options.accept) => {
                let waited = options.existing
                    && is_reset_first(end)
                    && held.iter().any(|(held, holders)| *held == id && holders.is_empty());
                // Its end was told when it came, without a process.
                if waited && is_wanted_there(options, truth, id, "") {
                    continue;
                }
                let mut expected = with_end(row(truth, options, "close", id, who), truth, id);
                expected.may_miss = waited || end.mptcp && is_reset_first(end);
                expected
            }
            _ => continue,
        };
        rows.push(with_peer(expected, truth, options, id, held));
    }
    rows.extend(of_before(truth, options, traced, held));
    if options.table {
        rows.iter_mut().for_each(as_table);
    }
    rows
}

/// Reset before it was accepted. Of MPTCP its end may be gone then, and is counted as lost.
pub fn is_reset_first(end: &End) -> bool {
    !end.active && end.closed.is_some_and(|closed| closed < end.since)
}

/// What the table has of it. There the name is the thread's.
fn as_table(expected: &mut Expected) {
    let thread = expected.fields.remove("thread").filter(|name| name[0] != Value::Null);
    if let Some(name) = thread {
        expected.fields.insert("comm", name);
    }
    if let Some([Value::String(name)]) = expected.fields.get("comm").map(Vec::as_slice) {
        // In twelve columns, with control characters made visible.
        let visible: String = name.replace('\x1b', "\\x1b").chars().take(12).collect();
        expected.fields.insert("comm", vec![json!(visible.trim_end())]);
    }
    for field in ["tid", "close_by", "tx_bytes", "rx_bytes", "peer_pid"] {
        expected.fields.remove(field);
    }
    // Nobody has no user.
    if expected.fields["pid"] == [Value::Null] {
        expected.fields.insert("uid", vec![Value::Null]);
    }
}

/// Connections that were there when tracing began.
fn of_before(
    truth: &Truth,
    options: &Options,
    traced: usize,
    held: &[(EndId, Vec<Identity>)],
) -> Vec<Expected> {
    let mut rows = Vec::new();
    if !options.existing {
        return rows;
    }
    for (id, holders) in held {
        let end = &truth.ends[*id];
        let strip = |row: &mut Expected| {
            for field in ["tid", "uid", "thread", "exe", "args", "ppid"] {
                row.fields.remove(field);
            }
        };
        let wanted: Vec<_> = holders
            .iter()
            .filter(|who| is_wanted_there(options, truth, *id, &who.leader))
            .collect();
        let is_wanted = is_wanted_there(options, truth, *id, "");
        let waits = end.owner.is_none() || end.since >= traced;
        if holders.is_empty() && waits && is_wanted {
            rows.push(of_nobody(truth, options, *id, "existing", held));
            if options.life {
                let end = of_nobody(truth, options, *id, "close", held);
                rows.push(Expected { may_miss: true, ..end });
            }
        }
        for who in &wanted {
            let mut expected = row(truth, options, "existing", *id, who);
            strip(&mut expected);
            rows.push(with_peer(expected, truth, options, *id, held));
        }
        if options.life && end.closed.is_some() && !wanted.is_empty() {
            let mut expected = row(truth, options, "close", *id, wanted[0]);
            strip(&mut expected);
            let pids = wanted.iter().map(|who| json!(who.pid));
            expected.fields.insert("pid", pids.collect());
            expected.fields.remove("comm");
            rows.push(with_peer(with_end(expected, truth, *id), truth, options, *id, held));
        }
    }
    rows
}

/// It waits to be accepted.
fn of_nobody(
    truth: &Truth,
    options: &Options,
    id: EndId,
    event: &'static str,
    held: &[(EndId, Vec<Identity>)],
) -> Expected {
    let mut expected = row(truth, options, event, id, &Identity::default());
    for field in ["tid", "uid", "thread", "exe", "args", "ppid", "comm", "netns"] {
        expected.fields.remove(field);
    }
    expected.fields.insert("pid", vec![Value::Null]);
    with_peer(expected, truth, options, id, held)
}

fn is_wanted_there(options: &Options, truth: &Truth, id: EndId, name: &str) -> bool {
    let end = &truth.ends[id];
    match options.only {
        Only::All => true,
        Only::Port(port) => end.remote.port() == port,
        Only::Comm(comm) => name == comm,
        Only::V4 => end.remote.ip().to_canonical().is_ipv4(),
        Only::V6 => end.remote.is_ipv6(),
    }
}

/// The rows that are missing and those too many; empty if all is right.
pub fn difference(expected: &[Expected], rows: &[Value]) -> Vec<String> {
    let mut left: Vec<&Value> = rows.iter().collect();
    let mut wrong = Vec::new();
    for want in expected {
        match left.iter().position(|row| want.fits(row)) {
            Some(at) => {
                left.remove(at);
            }
            None if want.may_miss => {}
            None => {
                let fields = want.fields.iter().map(|(name, values)| match values.as_slice() {
                    [one] => format!("{name} {one}"),
                    some => format!("{name} one of {some:?}"),
                });
                wrong.push(format!("missing: {}", fields.collect::<Vec<_>>().join(", ")));
            }
        }
    }
    wrong.extend(left.iter().map(|row| format!("too many: {row}")));
    let times: Vec<_> = rows
        .iter()
        .filter(|row| row["event"] != "existing")
        .map(|row| row["ts_ns"].as_u64())
        .collect();
    if !times.is_sorted() {
        wrong.push("the rows are not in the order of their times".into());
    }
    wrong
}
