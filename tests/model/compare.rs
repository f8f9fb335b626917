// SPDX-License-Identifier: Apache-2.0
//! From what happened and the options to the rows that must be there, and the
//! difference to those that are.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use super::actor::Identity;
use super::asks;
use super::ends::By;
use super::ends::End;
use super::ends::EndId;
use super::ends::Event;
use super::options::Options;
use super::options::SLOW;
use super::options::container_name;
use super::steps::EARLY;
use super::truth::Happened;
use super::truth::Truth;

/// How long a row waits for the accept of its connection.
const WAIT: Duration = Duration::from_millis(50);

/// A row that must be there, or may. Of each field one of these values; null: absent.
#[derive(Clone, Debug)]
pub struct Expected {
    pub end: EndId,
    pub fields: BTreeMap<&'static str, Vec<Value>>,
    /// Names that its destination has should an answer be lost.
    pub older: Vec<Query>,
    pub may_miss: bool,
}

/// Fields of a name.
pub type Query = [(&'static str, Vec<Value>); 3];

fn of_query((known, matched): (&asks::Known, &'static str)) -> Query {
    let pid = json!(known.who.pid);
    [
        ("query", vec![json!(known.name)]),
        ("query_match", vec![json!(matched)]),
        ("query_pid", vec![pid]),
    ]
}

fn no_query() -> Query {
    ["query", "query_match", "query_pid"].map(|field| (field, vec![Value::Null]))
}

impl Expected {
    /// The other end may have been lost, or pushed out by others.
    pub fn need_not_name_peer(&mut self) {
        if let Some(values) = self.fields.get_mut("peer_pid") {
            values.push(Value::Null);
        }
    }

    /// Names of others may push it out.
    pub fn need_not_name_destination(&mut self) {
        for (field, nothing) in no_query() {
            if let Some(values) = self.fields.get_mut(field) {
                values.extend(nothing);
            }
        }
    }

    /// The last answers may be lost, too: then it has an earlier name.
    pub fn need_not_have_the_last_name(&mut self) {
        self.need_not_name_destination();
        for (field, values) in self.older.iter().flatten() {
            self.fields.entry(field).or_default().extend(values.iter().cloned());
        }
    }

    /// The record of its program was lost.
    pub fn need_not_say_who(&mut self) {
        for field in ["exe", "args", "ppid", "container_name"] {
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

fn json_of(who: &[&Identity]) -> Vec<Value> {
    who.iter().map(|who| json!(who.pid)).collect()
}

/// As errno(3) has it.
fn name_of(error: i32) -> &'static str {
    match error {
        libc::ENETUNREACH => "ENETUNREACH",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        _ => "of another error",
    }
}

/// From an address to an address and port.
pub type Flow = (String, String, u16);

/// A scenario beside a tracer.
pub struct Scene<'a> {
    pub truth: &'a Truth,
    pub options: &'a Options,
    pub start: &'a Start,
}

/// The steps before which tracing began.
#[derive(Default)]
pub struct Start {
    pub attached: usize,
    /// What there was already was listed, and who held it, only of ends that were open.
    pub listed: usize,
    pub held: Vec<(EndId, Vec<Identity>)>,
    /// And of ends of MPTCP that were over by then, whose other end had left: a kernel thread ends
    /// them in its own time.
    pub left: Vec<(EndId, Vec<Identity>)>,
    /// What was listed was followed.
    pub followed: usize,
}

impl Start {
    /// Who holds each end now.
    pub fn hold(&mut self, truth: &Truth) {
        let people = |end| truth.holders(end).iter().map(|who| truth.people[who].clone()).collect();
        let all = truth.ends.iter().enumerate();
        let (over, open): (Vec<_>, Vec<_>) = all.partition(|(_, end)| end.closed.is_some());
        self.held = open.into_iter().map(|(id, _)| (id, people(id))).collect();
        let of_mptcp = over.into_iter().filter(|(_, end)| end.mptcp && end.established);
        self.left = of_mptcp.map(|(id, _)| (id, people(id))).collect();
    }
}

impl Scene<'_> {
    fn shown(&self, ip: IpAddr) -> String {
        if self.options.is_v6() { ip.to_string() } else { ip.to_canonical().to_string() }
    }

    fn row(&self, event: &'static str, id: EndId, who: &Identity) -> Expected {
        let end = &self.truth.ends[id];
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
        put("cgroup_id", json!(who.cgroup));
        put("daddr", json!(self.shown(end.remote.ip())));
        put("dport", json!(end.remote.port()));
        if let Some(local) = end.local {
            put("saddr", json!(self.shown(local.ip())));
            put("lport", json!(local.port()));
        }
        let is_v4 = end.remote.ip().to_canonical().is_ipv4() && !self.options.is_v6();
        put("ip", json!(if is_v4 { 4 } else { 6 }));
        if self.options.paths {
            let known = self.options.named.cgroups.iter().find(|(id, _)| *id == who.cgroup);
            put("cgroup", json!(known.map(|(_, path)| path)));
        }
        if self.options.who {
            put("exe", json!(who.exe));
            put("args", json!(who.args));
            put("ppid", json!(who.ppid));
            if self.options.believes_monitor {
                let inside = self.options.is_inside(who);
                put("container_name", json!(inside.then(container_name)));
            }
        }
        let mut older = Vec::new();
        if self.options.names {
            let is_new = end.active && end.since >= self.start.attached;
            let known = &self.truth.names;
            let queries = asks::queries(known, self.start.attached, end.since, end.remote, who);
            let shows = is_new && event != "existing";
            let mut queries = queries.into_iter().filter(|_| shows).map(of_query);
            fields.extend(queries.next().unwrap_or_else(no_query));
            older = queries.collect();
        }
        let mut expected = Expected { end: id, fields, older, may_miss: false };
        if end.since < self.start.followed {
            // Who made it is found when it is listed, or known by its beginning.
            expected.need_not_name_destination();
        }
        expected
    }

    fn with_end(&self, mut expected: Expected, id: EndId) -> Expected {
        let end = &self.truth.ends[id];
        // tcp_send_syn_data() counts what goes with the SYN before it is sent; where that fails,
        // the data goes later, and is counted once more.
        let twice = end.early.then(|| json!(end.sent + u64::from(EARLY)));
        let sent = [json!(end.sent)].into_iter().chain(twice);
        expected.fields.insert("tx_bytes", sent.collect());
        expected.fields.insert("rx_bytes", vec![json!(end.received)]);
        let is_mptcp = end.mptcp || end.peer.is_some_and(|peer| self.truth.ends[peer].mptcp);
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

    /// Who held it when tracing began.
    fn holders(&self, id: EndId) -> &[Identity] {
        self.start.held.iter().find(|(end, _)| *end == id).map_or(&[], |(_, who)| who)
    }

    /// Names the process at the other end, in a row of what happened `at` that time. Null only
    /// where nobody had it before tracing, or accepted it in the time that a row waits for that.
    fn with_peer(&self, mut expected: Expected, id: EndId, at: Instant) -> Expected {
        let mut pids = Vec::new();
        if let Some(peer) = self.truth.ends[id].peer.filter(|_| self.options.peer) {
            let end = &self.truth.ends[peer];
            let is_new = end.since >= self.start.attached;
            match &end.owner {
                Some(owner) if is_new => pids.push(json!(owner.pid)),
                _ => pids.extend(json_of(&self.holders(peer).iter().collect::<Vec<_>>())),
            }
            if is_new && end.began.1 > at + WAIT {
                pids.push(Value::Null);
            }
        }
        for taken in self.may_be_taken_for(id) {
            pids.extend(json_of(&taken));
            pids.push(Value::Null);
        }
        if pids.is_empty() || self.is_half_old(id) {
            pids.push(Value::Null);
        }
        expected.fields.insert("peer_pid", pids);
        expected
    }

    /// Without the numbers of its beginning an accept is taken for that of the newest connect:
    /// whom the other end may be taken for, each by those who may be named.
    fn may_be_taken_for(&self, id: EndId) -> Vec<Vec<&Identity>> {
        let ends = &self.truth.ends;
        if !self.options.peer {
            return Vec::new();
        }
        // Also of who has no other end, for its SYN was dropped.
        let (own, end) = (ends[id].peer, &ends[id]);
        let other_side = (Some(end.remote), end.local);
        let flow = own.map_or(other_side, |own| (ends[own].local, Some(ends[own].remote)));
        let same = |other: &End| (other.local, Some(other.remote)) == flow;
        let is_old = self.start.held.iter().any(|(held, _)| *held == id);
        let accepts = ends
            .iter()
            .filter(|other| (other.mptcp || is_old) && is_reset_first(other) && same(other));
        let accepts = accepts.filter_map(|end| end.owner.as_ref()).map(|owner| vec![owner]);
        // The same, as the accept has it.
        let is_first = is_reset_first(&ends[id]);
        let connects = (0..ends.len()).filter(|&other| is_first && Some(other) != own);
        let connects = connects.filter(|&other| ends[other].active && same(&ends[other]));
        let connects = connects.map(|other| {
            let owner = ends[other].owner.iter().filter(|_| ends[other].mptcp);
            self.holders(other).iter().chain(owner).collect()
        });
        accepts.chain(connects).collect()
    }

    /// Both ends connect to each other, and one of them began before tracing.
    fn is_half_old(&self, id: EndId) -> bool {
        let end = &self.truth.ends[id];
        let peer = end.peer.map(|peer| &self.truth.ends[peer]);
        let is_old = |end: &End| end.since < self.start.attached;
        peer.is_some_and(|peer| end.active && peer.active && is_old(end) != is_old(peer))
    }

    fn wants(&self, id: EndId, who: &Identity) -> bool {
        let end = &self.truth.ends[id];
        let to = if end.active { Some(end.remote) } else { end.local };
        self.options.want(end, who, to, |pid| self.truth.forked.get(&pid).copied())
    }

    /// Of what exists, ports and networks are those of the other end.
    fn wants_existing(&self, id: EndId, who: &Identity) -> bool {
        let end = &self.truth.ends[id];
        let to = Some(end.remote);
        self.options.want(end, who, to, |pid| self.truth.forked.get(&pid).copied())
    }

    /// The process of what nobody holds.
    fn nobody(&self) -> Identity {
        Identity { netns: self.truth.netns, uid: u32::MAX, ..Identity::default() }
    }

    /// All rows that must be there, or may.
    pub fn expect(&self) -> Vec<Expected> {
        let options = self.options;
        let mut rows = Vec::new();
        let shows_connects = !options.result && !options.life;
        let shows_accepts = options.accept && (options.result || !options.life);
        for Happened { step, at, event } in &self.truth.events {
            let (Event::Made(id)
            | Event::Failed(id, _)
            | Event::Outcome(id, _)
            | Event::Accepted(id)
            | Event::Ended(id)) = *event;
            let end = &self.truth.ends[id];
            let Some(who) = &end.owner else { continue };
            let is_old = end.since < self.start.attached;
            if *step < self.start.attached
                || is_old && !matches!(event, Event::Ended(_))
                || !self.wants(id, who)
            {
                continue;
            }
            let expected = match event {
                Event::Made(_) if shows_connects => self.row("connect", id, who),
                Event::Failed(_, error) if options.failed => {
                    let mut expected = self.row("connect", id, who);
                    expected.fields.insert("error", vec![json!(name_of(*error))]);
                    expected.fields.insert("saddr", vec![Value::Null]);
                    expected.fields.insert("lport", vec![json!(end.bound)]);
                    expected
                }
                Event::Outcome(_, result) if options.result && end.active => {
                    let mut expected = self.row("result", id, who);
                    expected.fields.insert("result", vec![json!(result)]);
                    if options.slow && end.latency.1 < SLOW {
                        continue;
                    }
                    expected.may_miss = options.slow && end.latency.0 < SLOW;
                    expected
                }
                Event::Accepted(_) if shows_accepts => self.row("accept", id, who),
                // An end that waited to be accepted before tracing has no beginning.
                Event::Ended(_) if options.life && !is_old && (end.active || options.accept) => {
                    let waited = options.existing
                        && is_reset_first(end)
                        && self.start.held.iter().any(|(held, who)| *held == id && who.is_empty());
                    // Its end was told when it came, without a process.
                    let is_told = waited && end.since >= self.start.followed;
                    if is_told && self.wants_existing(id, &self.nobody()) {
                        continue;
                    }
                    let mut expected = self.with_end(self.row("close", id, who), id);
                    expected.may_miss = waited || end.mptcp && is_reset_first(end);
                    expected
                }
                _ => continue,
            };
            rows.push(self.with_peer(expected, id, at.0));
        }
        if options.existing {
            rows.extend(self.late());
            rows.extend(self.start.left.iter().flat_map(|(id, holders)| self.left(*id, holders)));
            rows.extend(
                self.start.held.iter().flat_map(|(id, holders)| self.existing(*id, holders)),
            );
        }
        if options.table {
            rows.iter_mut().for_each(as_table);
        }
        rows
    }

    /// How many connects of each flow: from an address to an address and port.
    pub fn counts(&self) -> BTreeMap<Flow, u64> {
        let mut counts = BTreeMap::new();
        for one in &self.truth.events {
            let Event::Made(id) = one.event else { continue };
            let end = &self.truth.ends[id];
            if end.owner.as_ref().is_some_and(|who| self.wants(id, who)) {
                // To loopback it comes from there.
                let from = end.local.map_or(end.remote.ip(), |local| local.ip());
                let to = (self.shown(end.remote.ip()), end.remote.port());
                *counts.entry((self.shown(from), to.0, to.1)).or_default() += 1;
            }
        }
        counts
    }

    /// The sockets that there are when tracing would begin, one row for each descriptor.
    pub fn sockets(&self) -> Vec<Expected> {
        let mut rows = Vec::new();
        for (id, end) in self.truth.ends.iter().enumerate() {
            let held = self.truth.descriptors(id);
            let nobody = Identity { uid: u32::MAX, ..self.nobody() };
            // Whoever holds it, root made it.
            let held: Vec<_> =
                held.into_iter().map(|who| Identity { uid: 0, ..who.clone() }).collect();
            // Of what has ended there may be a place that is kept, and nobody has it.
            let is_over = end.closed.is_some();
            let holders = if held.is_empty() || is_over { &[nobody][..] } else { &held };
            for who in holders.iter().filter(|who| self.wants_existing(id, who)) {
                let mut expected = self.row("socket", id, who);
                for field in ["tid", "thread", "ip", "uid", "cgroup_id"] {
                    expected.fields.remove(field);
                }
                // As they are, IPv4-mapped or not.
                expected.fields.insert("daddr", vec![json!(end.remote.ip())]);
                if let Some(local) = end.local {
                    expected.fields.insert("saddr", vec![json!(local.ip())]);
                }
                if who.pid == 0 {
                    expected.fields.insert("pid", vec![Value::Null]);
                    expected.fields.insert("comm", vec![Value::Null]);
                }
                let states = self.truth.states(id).iter().map(|state| json!(state));
                expected.fields.insert("state", states.collect());
                expected.may_miss = is_over;
                rows.push(expected);
            }
        }
        rows
    }

    /// The rows of a connection that was there when tracing began, and who held it then.
    fn existing(&self, id: EndId, holders: &[Identity]) -> Vec<Expected> {
        let mut rows = Vec::new();
        let end = &self.truth.ends[id];
        // Whatever is listed comes later.
        let at = end.began.0;
        let strip = |row: &mut Expected| {
            let unknown =
                ["tid", "thread", "exe", "args", "ppid", "cgroup_id", "cgroup", "container_name"];
            for field in unknown {
                row.fields.remove(field);
            }
        };
        let wanted: Vec<_> = holders.iter().filter(|who| self.wants_existing(id, who)).collect();
        let waits = end.owner.is_none() || end.since >= self.start.listed;
        let is_new = end.since >= self.start.attached && !waits;
        let is_told = is_new && (end.active || self.options.accept);
        if is_told && end.owner.as_ref().is_some_and(|who| self.wants(id, who)) {
            return rows;
        }
        if holders.is_empty() && waits && self.wants_existing(id, &self.nobody()) {
            // What is accepted before the list is shown has its row by that.
            let is_taken = end.owner.is_some() && end.since < self.start.followed;
            let may_miss = is_taken && self.options.accept;
            rows.push(Expected { may_miss, ..self.of_nobody(id, "existing") });
            if self.options.life {
                let mut close = self.of_nobody(id, "close");
                // With --peer who accepted it is known.
                if let Some(owner) = end.owner.as_ref().filter(|_| self.options.peer) {
                    close.fields.entry("pid").or_default().push(json!(owner.pid));
                }
                rows.push(Expected { may_miss: true, ..close });
            }
        }
        for who in &wanted {
            let mut expected = self.row("existing", id, who);
            strip(&mut expected);
            rows.push(self.with_peer(expected, id, at));
        }
        if self.options.life && end.closed.is_some() && !wanted.is_empty() {
            let mut expected = self.row("close", id, wanted[0]);
            strip(&mut expected);
            // With --peer who accepted it is known.
            let accepted = end.owner.iter().filter(|_| is_new);
            let holders: Vec<_> = wanted.iter().copied().chain(accepted).collect();
            expected.fields.insert("pid", json_of(&holders));
            expected.fields.remove("comm");
            expected.fields.remove("uid");
            let ended = self.truth.events.iter().find(|one| one.event == Event::Ended(id));
            let at = ended.map_or(at, |one| one.at.0);
            let mut expected = self.with_end(expected, id);
            // It ended about when it began to be followed: the hook may just have seen it.
            if end.closed < Some(self.start.followed) && !(is_new && self.options.peer) {
                for field in ["tx_bytes", "rx_bytes", "close_by"] {
                    if let Some(values) = expected.fields.get_mut(field) {
                        values.push(Value::Null);
                    }
                }
            }
            rows.push(self.with_peer(expected, id, at));
        }
        rows
    }

    /// Of ends that were closed before they were listed: their FIN may not be acknowledged yet, for
    /// loopback too delays that by up to 40 ms. An acknowledgement that comes while close() still
    /// has the socket leaves it a whole one in FIN_WAIT2, until a minute is over or the other end
    /// goes, too (tcp_rcv_state_process()).
    fn late(&self) -> Vec<Expected> {
        let mut rows = Vec::new();
        let start = self.start;
        for (id, end) in self.truth.ends.iter().enumerate() {
            let is_late = matches!(end.by, Some(By::Local | By::LocalOrReset)) && end.established;
            let is_over_before = |end: &End, step| end.closed.is_some_and(|closed| closed < step);
            let peer = end.peer.map(|peer| &self.truth.ends[peer]);
            let are_both_over = is_over_before(end, start.attached)
                && peer.is_some_and(|peer| is_over_before(peer, start.attached));
            let is_recent = is_over_before(end, start.listed) && !are_both_over;
            if is_late && is_recent && self.wants_existing(id, &self.nobody()) {
                let row = |event| Expected { may_miss: true, ..self.of_nobody(id, event) };
                rows.push(row("existing"));
                rows.extend(self.options.life.then(|| row("close")));
            }
        }
        rows
    }

    fn left(&self, id: EndId, holders: &[Identity]) -> Vec<Expected> {
        let nobody = self.nobody();
        let wanted = holders.iter().filter(|who| self.wants_existing(id, who));
        let mut may: Vec<_> = wanted.map(|who| (who, json!(who.pid))).collect();
        if self.wants_existing(id, &nobody) {
            may.push((&nobody, Value::Null));
        }
        let pids: Vec<_> = may.iter().map(|(_, pid)| pid.clone()).collect();
        let row = |event, pids| {
            let mut expected = self.of_nobody(id, event);
            expected.fields.insert("pid", pids);
            expected.fields.remove("peer_pid");
            Expected { may_miss: true, ..expected }
        };
        let mut rows: Vec<_> =
            may.iter().map(|(_, pid)| row("existing", vec![pid.clone()])).collect();
        rows.extend((self.options.life && !pids.is_empty()).then(|| row("close", pids)));
        rows
    }

    /// It waits to be accepted.
    fn of_nobody(&self, id: EndId, event: &'static str) -> Expected {
        let mut expected = self.row(event, id, &self.nobody());
        for field in [
            "tid",
            "uid",
            "thread",
            "exe",
            "args",
            "ppid",
            "comm",
            "cgroup_id",
            "cgroup",
            "container_name",
        ] {
            expected.fields.remove(field);
        }
        expected.fields.insert("pid", vec![Value::Null]);
        self.with_peer(expected, id, self.truth.ends[id].began.0)
    }
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
    if let Some(error) = expected.fields.remove("error") {
        expected.fields.insert("err", error);
    }
    for field in ["tid", "cgroup_id", "close_by", "tx_bytes", "rx_bytes", "peer_pid"] {
        expected.fields.remove(field);
    }
    // Nobody has no user.
    if expected.fields["pid"] == [Value::Null] {
        expected.fields.insert("uid", vec![Value::Null]);
    }
}

/// What is wrong with the rows.
#[derive(Default)]
pub struct Difference {
    /// Those that are missing and those too many, in words.
    pub wrong: Vec<String>,
    /// Of which ends some are missing.
    pub missing: BTreeSet<EndId>,
}

pub fn difference(expected: &[Expected], rows: &[Value]) -> Difference {
    let mut left: Vec<&Value> = rows.iter().collect();
    let (mut wrong, mut missing) = (Vec::new(), BTreeSet::new());
    // What fits more rows, of a port that nobody knows, takes what others leave, and what may
    // be missing takes no row of what must be there.
    let mut wanted: Vec<_> = expected.iter().collect();
    wanted.sort_by_key(|want| (!want.fields.contains_key("lport"), want.may_miss));
    for want in wanted {
        match left.iter().position(|row| want.fits(row)) {
            Some(at) => {
                left.remove(at);
            }
            None if want.may_miss => {}
            None => {
                missing.insert(want.end);
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
    Difference { wrong, missing }
}
