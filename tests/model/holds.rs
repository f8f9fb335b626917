// SPDX-License-Identifier: Apache-2.0
//! What must hold of a storm's rows in whatever order its steps were done, from what
//! its threads know of their own calls.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;

use super::lab::Done;
use super::lab::Lab;
use super::storm::Options;
use super::storm::lost_of;
use super::swarm::Fact;
use super::swarm::What;

/// What was told to be lost, under attack: what may be missing of others.
#[derive(Default)]
pub struct Losses {
    rows: u64,
    programs: u64,
}

impl Losses {
    pub fn new(done: &Done) -> Self {
        let lost = lost_of(done);
        let of = |reason: &str| lost.get(reason).copied().unwrap_or(0);
        // Those who fill the buffer lose their own: no excuse for what others do.
        Losses { rows: of("count") - of("crowded"), programs: of("process") + of("joins") }
    }

    pub fn may_hide_programs(&self) -> bool {
        self.rows + self.programs > 0
    }

    /// Of what differs, all but rows of which so many were told to be lost.
    pub fn but_for_lost(&self, mut wrong: Vec<String>) -> Vec<String> {
        let is_missing = |line: &String| line.starts_with("missing: ");
        let missing = wrong.iter().filter(|line| is_missing(line)).count();
        if missing as u64 <= self.rows {
            wrong.retain(|line| !is_missing(line));
        }
        wrong
    }
}

/// What an attacker makes the tracer say.
pub const OF_ATTACKS: [&str; 6] = [
    " records of processes lost",
    " records lost that are no rows themselves",
    " DNS answers or names lost",
    " answers from port 53 were to nobody's question",
    " messages from port 53 were no DNS",
    " connects have no outcome yet",
];

pub struct Check<'a> {
    pub options: &'a Options,
    pub lab: &'a Lab,
    pub inode: u32,
    /// When tracing had begun.
    pub since: u64,
    pub facts: &'a [Fact],
    /// Each child with who forked it.
    pub forks: &'a BTreeSet<(u32, u32)>,
    /// An attacker was at work, and all of the host was traced.
    pub attacked: bool,
}

impl Check<'_> {
    pub fn check(&self, done: &Done, lost: &BTreeMap<String, u64>) -> Vec<String> {
        let parse = |line| serde_json::from_str::<Value>(line).expect("a line is one object");
        let (mut rows, mut times) = (Vec::new(), Vec::new());
        let is_ours = |row: &Value| !self.attacked || row["netns"] == self.inode;
        let mut printed = 0;
        for row in done.stdout.lines().map(parse).filter(|row| row["event"] != "lost") {
            printed += 1;
            if row["event"] != "existing" {
                times.push(row["ts_ns"].as_u64());
            }
            // An attacker's may be a hundred times as many.
            if is_ours(&row) {
                rows.push(row);
            }
        }
        let mut wrong = self.complaints(done, lost, printed);
        if !times.is_sorted() {
            wrong.push("the rows are not in the order of their times".into());
        }
        let known = Known::new(self.facts);
        let mut seen = BTreeMap::new();
        for row in &rows {
            let event = row["event"].as_str().unwrap_or_default();
            if event == "existing" {
                wrong.extend(self.of_existing(row, &known));
                continue;
            }
            let Some(nth) = known.find(row) else {
                if !self.may_be_older(row) {
                    wrong.push(format!("of nobody: {row}"));
                }
                continue;
            };
            if let Some(before) = seen.insert((nth, event), row) {
                wrong.push(format!("twice: {before} {row}"));
            }
            wrong.extend(self.of_fact(row, event, &self.facts[nth], &known, lost));
        }
        wrong.extend(self.missing(&seen, lost));
        wrong
    }

    /// What is said on stderr must be of losses, and the numbers add up.
    fn complaints(&self, done: &Done, lost: &BTreeMap<String, u64>, rows: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        if !done.status.success() {
            wrong.push(format!("it ended with {:?}: {}", done.status, done.stderr));
        }
        // What is printed and what is lost, of whomever.
        let told = [
            "Possibly lost ",
            " records of processes lost",
            " records lost that are no rows",
            " events seen: ",
        ];
        // A machine may hide a process of its own from everybody.
        let hidden = "no permission to see the descriptors";
        let complaints = done
            .stderr
            .lines()
            .filter(|line| !told.iter().any(|told| line.contains(told)) && !line.contains(hidden));
        let complaints = complaints
            .filter(|line| !self.attacked || !OF_ATTACKS.iter().any(|of| line.contains(of)));
        // An outcome that was lost is not known to be missing.
        let complaints =
            complaints.filter(|line| lost["count"] == 0 || !line.contains("outcome yet"));
        wrong.extend(complaints.map(|line| format!("it said: {line}")));
        let counted = lost["count"];
        match done.ledger() {
            None if counted == 0 => {}
            Some((seen, printed, said))
                if printed == rows && said == counted && seen == rows + said => {}
            ledger => wrong.push(format!("{rows} rows, {counted} lost, told: {ledger:?}")),
        }
        wrong
    }

    /// Of a connection from before tracing, which no fact of a traced time knows.
    fn may_be_older(&self, row: &Value) -> bool {
        self.options.existing && row["event"] == "close" && row["duration_us"].is_null()
    }

    /// All holders of it are its process, or children of that, which inherit it.
    fn of_existing(&self, row: &Value, known: &Known) -> Option<String> {
        let cookie = row["conn_id"].as_str()?.parse::<u64>().ok()?;
        let facts = known.by_cookie.get(&cookie);
        // One that waits to be accepted is nobody's.
        let pid = row["pid"].as_u64()?;
        let Some(facts) = facts else {
            return Some(format!("of nobody: {row}"));
        };
        let is_right = facts.iter().any(|&nth| {
            let who = &self.facts[nth].who;
            u64::from(who.pid) == pid || self.forks.contains(&(pid as u32, who.pid))
        });
        (!is_right).then(|| format!("of another process: {row}"))
    }

    /// Whether the end of a fact may be told to be this process's: one from before tracing is
    /// its holder's, which is a child if the process itself has closed it.
    fn may_hold(&self, pid: u32, of: &Fact) -> bool {
        let is_older = self.options.existing && of.before < self.since;
        of.who.pid == pid || is_older && self.forks.contains(&(pid, of.who.pid))
    }

    /// A row beside what its thread knows.
    fn of_fact(
        &self,
        row: &Value,
        event: &str,
        fact: &Fact,
        known: &Known,
        lost: &BTreeMap<String, u64>,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut must = |name: &str, values: &[Value]| {
            if !values.contains(&row[name]) {
                let values: Vec<_> = values.iter().map(Value::to_string).collect();
                wrong.push(format!(
                    "{name} is {}, not {}: {row} for {fact:?}",
                    row[name],
                    values.join(" or ")
                ));
            }
        };
        let who = &fact.who;
        must("netns", &[self.inode.into()]);
        // The end of one from before tracing is charged to whoever held it then.
        if row["partial"] == true {
            wrong.extend(self.of_existing(row, known));
            return wrong;
        }
        must("pid", &[who.pid.into()]);
        must("tid", &[who.tid.into()]);
        must("uid", &[who.uid.into()]);
        must("comm", &[who.leader.clone().into()]);
        let thread = (who.comm != who.leader).then(|| who.comm.clone());
        must("thread", &[thread.into()]);
        for (side, addr, port) in [(fact.local, "saddr", "lport"), (fact.remote, "daddr", "dport")]
        {
            let Some(side) = side else { continue };
            must(addr, &[side.ip().to_canonical().to_string().into()]);
            must(port, &[side.port().into()]);
        }
        let unknown = self.may_be_unknown(row, event, fact, lost).then_some(Value::Null);
        if self.options.exe || self.options.args {
            let ppid = Value::from(who.ppid);
            must("ppid", &[&[ppid][..], unknown.as_slice()].concat());
        }
        for (on, name, value) in [
            (self.options.exe, "exe", Value::from(who.exe.clone())),
            (self.options.args, "args", Value::from(who.args.clone())),
        ] {
            match on {
                true => must(name, &[&[value][..], unknown.as_slice()].concat()),
                false => must(name, &[Value::Null, value]),
            }
        }
        match (event, fact.ret as i32) {
            ("result", 0) => must("result", &["ok".into()]),
            ("result", error) if error == -libc::ECONNREFUSED => {
                must("result", &["refused".into()]);
            }
            _ => {}
        }
        // Nobody asked for a name.
        if row["query"] != "localhost" {
            must("query", &[Value::Null]);
        }
        if let Some(pid) = row["peer"]["pid"].as_u64() {
            let peers = known.peers(self.facts, fact);
            if !peers.iter().any(|peer| self.may_hold(pid as u32, peer)) {
                let pids: BTreeSet<_> = peers.iter().map(|peer| peer.who.pid).collect();
                wrong.push(format!("peer is none of {pids:?}: {row} for {fact:?}"));
            }
        }
        wrong
    }

    /// Whether the tracer may know nothing of the process but its name.
    fn may_be_unknown(
        &self,
        row: &Value,
        event: &str,
        fact: &Fact,
        lost: &BTreeMap<String, u64>,
    ) -> bool {
        let has = |reason: &str| lost.get(reason).is_some_and(|&count| count > 0);
        // Who connected is told by a record at the connect, and kept for later rows.
        let keeps = event == "result" || event == "close";
        let lost_record = has("process") || keeps && has("joins");
        // Of one that was there when tracing began /proc tells nothing more, if it has ended
        // or runs another program by the time it is looked at.
        lost_record || fact.before < self.since && row["source"] == "none"
    }

    /// Rows that are not there, beside what was told to be lost.
    fn missing(
        &self,
        seen: &BTreeMap<(usize, &str), &Value>,
        lost: &BTreeMap<String, u64>,
    ) -> Option<String> {
        let (mut missing, mut first, mut of_one) = (0, None, 1);
        for (nth, fact) in self.facts.iter().enumerate().filter(|(_, f)| f.before >= self.since) {
            let events = self.options.events(fact);
            of_one = of_one.max(events.len() as u64);
            for event in events {
                if !seen.contains_key(&(nth, event)) {
                    missing += 1;
                    first.get_or_insert((event, fact));
                }
            }
        }
        // What hooks told before the tracer said that it is ready may be lost, too.
        let older = self.facts.iter().enumerate().filter(|(_, fact)| fact.before < self.since);
        let events =
            older.flat_map(|(nth, f)| self.options.events(f).into_iter().map(move |e| (nth, e)));
        let older = events.filter(|event| !seen.contains_key(event)).count() as u64;
        let of = |reason: &str| lost.get(reason).copied().unwrap_or(0);
        // A record that found no room is one row at most.
        let records = of("buffer") + of("crowded") + of("cpu");
        // A run that the kernel skipped, a return that it missed, and a connection that
        // was forgotten may have told of each event of a connection.
        let others = lost["count"] - records;
        let most = records + of_one * others;
        let exactly = !self.attacked && others == 0;
        (missing > most || exactly && missing + older < records).then(|| {
            format!("{missing} rows are missing, {lost:?} are told to be lost; one is {first:?}")
        })
    }

    pub fn check_kept(
        &self,
        kept: &BTreeMap<String, usize>,
        lost: &BTreeMap<String, u64>,
    ) -> Option<String> {
        // Of a run that was skipped nobody deletes.
        let skipped =
            lost.get("skipped").copied().unwrap_or(0) + lost.get("stash").copied().unwrap_or(0);
        // A call under way is anybody's, if all are traced.
        let of_all = |name: &String| name == "calls" || name == "attempts";
        let ours = kept.iter().filter(|(name, _)| !self.attacked || !of_all(name));
        let all: usize = ours.map(|(_, count)| count).sum();
        let is_wrong = all as u64 > skipped;
        is_wrong.then(|| format!("kept with {}: {kept:?}", self.lab.attach))
    }
}

/// The facts, by what a row says of itself.
struct Known<'a> {
    facts: &'a [Fact],
    by_tid: BTreeMap<u32, Vec<usize>>,
    by_cookie: BTreeMap<u64, Vec<usize>>,
    by_local: BTreeMap<SocketAddr, Vec<usize>>,
    without_local: Vec<usize>,
}

fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

impl<'a> Known<'a> {
    fn new(facts: &'a [Fact]) -> Self {
        let mut known = Known {
            facts,
            by_tid: BTreeMap::new(),
            by_cookie: BTreeMap::new(),
            by_local: BTreeMap::new(),
            without_local: Vec::new(),
        };
        for (nth, fact) in facts.iter().enumerate() {
            known.by_tid.entry(fact.who.tid).or_default().push(nth);
            known.by_cookie.entry(fact.cookie).or_default().push(nth);
            match fact.local {
                Some(local) => known.by_local.entry(plain(local)).or_default().push(nth),
                None => known.without_local.push(nth),
            }
        }
        known
    }

    /// A thread makes one call at a time: it and a time are a call.
    fn find(&self, row: &Value) -> Option<usize> {
        let what = if row["event"] == "accept" { What::Accept } else { What::Connect };
        let ts = row["ts_ns"].as_u64()?;
        if ["connect", "accept"].contains(&row["event"].as_str()?) {
            let is_it = |fact: &Fact| fact.what == what;
            return self.at(row["tid"].as_u64()? as u32, ts, 0).filter(|&n| is_it(&self.facts[n]));
        }
        let id = row["conn_id"].as_str()?;
        if let Some((tid, began)) = id.split_once('-') {
            return self.at(tid.parse().ok()?, began.parse().ok()?, 0);
        }
        let facts = self.by_cookie.get(&id.parse::<u64>().ok()?)?;
        if let [one] = facts[..] {
            return Some(one);
        }
        // A socket that connected more than once.
        let Some(took) = row["latency_us"].as_f64().or(row["duration_us"].as_f64()) else {
            return self.last_begun(facts, ts).filter(|_| row["partial"] == true);
        };
        let began = ts.saturating_sub((took * 1000.0) as u64);
        facts.iter().copied().find(|&nth| within(&self.facts[nth], began, 1_000))
    }

    /// What ended at `ts`, of a connection from before tracing, whose row has no beginning. One that
    /// was reset while it waited ended before its accept.
    fn last_begun(&self, facts: &[usize], ts: u64) -> Option<usize> {
        let begun = facts.iter().filter(|&&nth| self.facts[nth].before <= ts);
        let last = begun.max_by_key(|&&nth| self.facts[nth].before);
        last.or_else(|| facts.iter().min_by_key(|&&nth| self.facts[nth].before)).copied()
    }

    fn at(&self, tid: u32, ts: u64, room: u64) -> Option<usize> {
        let facts = self.by_tid.get(&tid)?;
        facts.iter().copied().find(|&nth| within(&self.facts[nth], ts, room))
    }

    /// What the other end may have done: those with its addresses, at whatever time.
    fn peers(&self, facts: &'a [Fact], fact: &Fact) -> Vec<&'a Fact> {
        // It was reset before it was accepted: only those who connected to it.
        let Some(remote) = fact.remote else { return facts.iter().collect() };
        let there = self.by_local.get(&plain(remote)).into_iter().flatten();
        let is_it = |there: &&Fact| match (there.remote, fact.local) {
            (Some(remote), Some(local)) => plain(remote) == plain(local),
            _ => true,
        };
        there.chain(&self.without_local).map(|&nth| &facts[nth]).filter(is_it).collect()
    }
}

fn within(fact: &Fact, ts: u64, room: u64) -> bool {
    (fact.before.saturating_sub(room)..=fact.after + room).contains(&ts)
}
