// SPDX-License-Identifier: Apache-2.0
//! `--who` with `--since`: what was recorded before is shown first, and nothing of it again. The
//! hooks are attached before the recording is read, so that it and they have seen some events
//! both; each of these is known by its socket's cookie.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use chrono::Local;

use super::App;
use super::IDLE;
use super::poll;
use super::readable;
use super::write_if_large;
use crate::clock::BootClock;
use crate::clock::WallClock;
use crate::config::Config;
use crate::config::Reading;
use crate::host::rights;
use crate::model::event::Connect;
use crate::model::event::Life;
use crate::model::event::Origin;
use crate::model::event::Stage;
use crate::model::numbers::NumberMap;
use crate::output::json::read::What;
use crate::output::sink::end_of_output;
use crate::replay;
use crate::replay::Rows;
use crate::replay::Shown;
use crate::replay::Tracing;
use crate::snapshot::existing::Listed;

/// Lines that are read before the buffer is; 1 ms.
const CHUNK: u64 = 256;
/// A recorder says each second that it goes on. One that has not for so long does not run.
const SILENT_NS: u64 = 5_000_000_000;
/// How long it is waited for what it has yet to write.
const PATIENCE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);
/// Two runs read the clock for one event one after the other, each in its own program. A socket
/// can connect again, a thread to the same address sooner.
const LATE_NS: u64 = 1_000_000_000;
const LATE_WITHOUT_COOKIE_NS: u64 = 1_000_000;

/// What is the same for two runs that see one event.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Whose {
    Cookie(u64),
    Thread { tid: u32, netns: Option<u32>, to: (IpAddr, u16) },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Connected { has_failed: bool },
    Accepted,
    Existing,
    Result,
    End,
}

fn identity(connect: &Connect, life: Option<&Life>) -> (Whose, Kind) {
    let whose = match connect.cookie {
        Some(cookie) => Whose::Cookie(cookie),
        None => Whose::Thread {
            tid: connect.tid,
            netns: connect.netns,
            to: (connect.daddr.to_canonical(), connect.dport),
        },
    };
    let kind = match (life.map(|life| life.stage), connect.origin) {
        (Some(Stage::Result(_)), _) => Kind::Result,
        (Some(_), _) => Kind::End,
        (None, Origin::Connected) => Kind::Connected { has_failed: connect.error != 0 },
        (None, Origin::Accepted) => Kind::Accepted,
        (None, Origin::Existing) => Kind::Existing,
    };
    (whose, kind)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Recorder,
    Hooks,
}

/// Of this boot, what has been shown.
pub(super) struct Past {
    /// No hook has seen what was before.
    attached_ns: u64,
    /// What both may have seen: when it was, and by whom it was shown.
    shown: HashMap<(Whose, Kind), Vec<(u64, By)>>,
    /// Connections that exist, by their cookies: pids that a row has named.
    named: NumberMap<u64, Vec<u32>>,
    is_over: bool,
}

impl Past {
    pub(super) fn new(attached_ns: u64) -> Self {
        let (shown, named) = (HashMap::new(), NumberMap::default());
        Past { attached_ns, shown, named, is_over: false }
    }

    /// Whether it has no row yet; from here on it has.
    fn is_new(&mut self, connect: &Connect, life: Option<&Life>, by: By) -> bool {
        let at_ns = connect.ts_ns;
        if at_ns.saturating_add(LATE_NS) < self.attached_ns {
            return true;
        }
        let identity = identity(connect, life);
        let late_ns = match identity.0 {
            Whose::Cookie(_) => LATE_NS,
            Whose::Thread { .. } => LATE_WITHOUT_COOKIE_NS,
        };
        let is_it = |(shown_ns, of): &(u64, By)| *of != by && shown_ns.abs_diff(at_ns) <= late_ns;
        if let Some(shown) = self.shown.get_mut(&identity)
            && let Some(at) = shown.iter().position(is_it)
        {
            shown.swap_remove(at);
            return false;
        }
        if !self.is_over {
            self.shown.entry(identity).or_default().push((at_ns, by));
        }
        true
    }

    /// As hooks report it.
    pub(super) fn has(&mut self, connect: &Connect, life: Option<&Life>) -> bool {
        !self.is_new(connect, life, By::Hooks)
    }

    /// Whether a row has named this connection and who holds it. Who has it from another process
    /// is not named yet.
    pub(super) fn has_listed(&self, connect: &Connect) -> bool {
        let named = connect.cookie.and_then(|cookie| self.named.get(&cookie));
        named.is_some_and(|pids| match connect.pid {
            0 => !pids.is_empty(),
            pid => pids.contains(&pid),
        })
    }

    fn note(&mut self, connect: &Connect) {
        if let Some(pids) = connect.cookie.and_then(|cookie| self.named.get_mut(&cookie))
            && connect.pid != 0
            && !pids.contains(&connect.pid)
        {
            pids.push(connect.pid);
        }
    }

    fn end(&mut self) {
        self.is_over = true;
        for shown in self.shown.values_mut() {
            shown.retain(|(_, by)| *by == By::Recorder);
        }
        self.shown.retain(|_, shown| !shown.is_empty());
    }
}

/// The error says what to do where nothing is recorded, before anything is traced.
pub(super) fn check(config: &Config) -> Result<()> {
    let Some(from) = &config.past else { return Ok(()) };
    rights::as_caller(|| replay::open(config, from, 0..0, None)).map(|_| ())
}

/// The beginning of its id, as it stands in names of files.
fn boot() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(PATH).with_context(|| format!("failed to read {PATH}"))?;
    Ok(id.chars().take(8).collect())
}

impl App<'_> {
    /// What was recorded until these were listed. False if a signal came meanwhile.
    pub(super) fn show_past(&mut self, listed: &[Listed], listed_ns: u64) -> Result<bool> {
        let config = self.config;
        let Some(from) = &config.past else { return Ok(true) };
        let unix_ns = WallClock::now().unix_ns(listed_ns);
        let tracing = Tracing { boot: boot()?, ts_ns: listed_ns, unix_ns };
        if let Some(past) = &mut self.past {
            let cookies = listed.iter().filter_map(|row| row.connect.cookie);
            past.named = cookies.map(|cookie| (cookie, Vec::new())).collect();
        }
        rights::as_caller(|| {
            if !self.wait_for_recorder(from, &tracing)? {
                return Ok(false);
            }
            let since_ns = from.since.map_or(0, |when| when.unix_ns(&Local::now()));
            let rows = replay::open(config, from, since_ns..unix_ns, Some(tracing))?;
            self.show_recorded(rows)
        })
    }

    /// What happened until now is on its way to the disk, perhaps.
    fn wait_for_recorder(&mut self, from: &Reading, tracing: &Tracing) -> Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        let written = || {
            let dirs = from.paths.iter();
            dirs.filter_map(|dir| replay::written_until(dir, &tracing.boot)).max()
        };
        while let Some(written_ns) = written()
            && written_ns < tracing.unix_ns
            && written_ns.saturating_add(SILENT_NS) > tracing.unix_ns
            && Instant::now() < deadline
        {
            self.hold_back(true)?;
            self.report_lost(IDLE)?;
            if self.stop.is_set() {
                return Ok(false);
            }
            poll(&mut [readable(self.stop.fd())], LOOK)?;
        }
        Ok(true)
    }

    fn show_recorded(&mut self, mut rows: Rows) -> Result<bool> {
        let (mut lines, mut is_read, mut last_ns) = (0, false, 0);
        while !is_read && !self.is_at_limit() {
            is_read = !rows.read();
            while let Some(shown) = rows.next(is_read).filter(|_| !self.is_at_limit()) {
                last_ns = shown.unix_ns;
                if let Err(e) = self.recorded(shown) {
                    // The next one finds it closed, too.
                    return end_of_output(e, &self.sink.name).map(|()| true);
                }
            }
            lines += 1;
            if lines % CHUNK == 0 {
                self.hold_back(true)?;
                self.report_lost(IDLE)?;
                if self.stop.is_set() {
                    return Ok(false);
                }
            }
        }
        if self.is_at_limit() {
            rows.cut(last_ns);
        }
        let coverage = rows.coverage();
        rows.put_coverage(&coverage, &mut *self.output, &mut self.text);
        self.output.booted(BootClock::now());
        if let Some(past) = &mut self.past {
            past.end();
        }
        let written = self.sink.write(&mut self.text);
        rows.tell(&coverage, !is_read);
        written.or_else(|e| end_of_output(e, &self.sink.name)).map(|()| true)
    }

    fn recorded(&mut self, shown: Shown) -> io::Result<()> {
        let Shown { unix_ns, boot, is_of_this_boot, truncated, what } = shown;
        match what {
            What::Connection(row) => {
                if let Some(past) = self.past.as_mut().filter(|_| is_of_this_boot) {
                    past.note(&row.connect);
                    if !past.is_new(&row.connect, row.life.as_ref(), By::Recorder) {
                        return Ok(());
                    }
                }
                if let Some(boot) = boot {
                    self.output.booted(boot);
                }
                self.output.cut(truncated);
                let clock = replay::clock_of(unix_ns, row.connect.ts_ns);
                self.output.connect(&row.row(), &clock, &mut self.text);
                self.printed += 1;
            }
            What::Lost(lost) => {
                self.output.lost(&lost, unix_ns, &WallClock::at(0), &mut self.text);
            }
            _ => {}
        }
        write_if_large(&mut self.sink, &mut self.text)
    }

    fn is_at_limit(&self) -> bool {
        self.config.max_events.is_some_and(|n| self.printed >= n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(cookie: Option<u64>, ts_ns: u64) -> Connect {
        Connect { cookie, ts_ns, tid: 7, pid: 7, ..Connect::nowhere() }
    }

    const S: u64 = 1_000_000_000;

    #[test]
    fn what_both_have_seen_is_shown_once_whoever_comes_first() {
        let mut past = Past::new(10 * S);
        assert!(past.is_new(&connect(Some(1), 11 * S), None, By::Recorder));
        assert!(past.is_new(&connect(Some(2), 11 * S), None, By::Hooks));
        assert!(!past.is_new(&connect(Some(2), 11 * S + 5), None, By::Recorder));
        past.end();
        assert!(past.has(&connect(Some(1), 11 * S - 5), None));
        // A socket that was disconnected connects once more.
        assert!(!past.has(&connect(Some(1), 11 * S + 9), None));
        assert!(!past.has(&connect(Some(3), 11 * S), None));
    }

    #[test]
    fn an_accept_an_end_and_another_boots_cookie_are_none_of_a_connects() {
        let mut past = Past::new(10 * S);
        let connected = connect(Some(1), 11 * S);
        assert!(past.is_new(&connected, None, By::Recorder));
        let accepted = Connect { origin: Origin::Accepted, ..connected };
        let gone = Life { connect: connected, began_ns: 11 * S, stage: Stage::Gone };
        assert!(!past.has(&accepted, None) && !past.has(&connected, Some(&gone)));
        // Long before any hook was there: nothing is kept of it.
        assert!(past.is_new(&connect(Some(9), S), None, By::Recorder));
        assert!(!past.has(&connect(Some(9), 11 * S), None));
    }

    #[test]
    fn without_a_cookie_a_thread_is_told_apart_by_the_time() {
        let mut past = Past::new(10 * S);
        assert!(past.is_new(&connect(None, 11 * S), None, By::Recorder));
        assert!(!past.has(&connect(None, 11 * S + 2_000_000), None));
        let mut past = Past::new(10 * S);
        assert!(past.is_new(&connect(None, 11 * S), None, By::Recorder));
        assert!(past.has(&connect(None, 11 * S + 20_000), None));
    }

    #[test]
    fn who_holds_what_another_has_made_is_named_too() {
        let mut past = Past::new(0);
        past.named = [(1, Vec::new())].into_iter().collect();
        past.note(&connect(Some(1), 5));
        past.note(&connect(Some(2), 5));
        let held_by = |cookie, pid| Connect { pid, ..connect(Some(cookie), 9) };
        assert!(past.has_listed(&held_by(1, 7)) && past.has_listed(&held_by(1, 0)));
        assert!(!past.has_listed(&held_by(1, 8)) && !past.has_listed(&held_by(2, 7)));
        assert!(!past.has_listed(&connect(None, 9)));
    }
}
