// SPDX-License-Identifier: Apache-2.0
//! What people call containers. Asked for when a container is started or its cgroup made, before
//! there is a process in it, and kept by its id: who connects finds them here. Rows that come
//! after a question wait a moment for the answer; the loop does not.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;

use crate::clock::monotonic_ns;
use crate::host::containers::Answer;
use crate::host::containers::Found;
use crate::host::containers::Outcome;
use crate::host::containers::Question;
use crate::host::containers::Readers;
use crate::host::containers::Started;
use crate::host::containers::Why;
use crate::host::containers::is_believed;
use crate::host::containers::of_conmon;
use crate::host::containers::started;
use crate::host::proc;
use crate::model::container::Container;
use crate::model::container::NameSource;
use crate::model::container::Names;
use crate::model::container::is_full_id;
use crate::model::container::name_in_id;
use crate::model::process::Change;
use crate::model::process::ProcessEvent;
use crate::model::shares::Shares;

/// How long rows wait for an answer. One takes 1 ms, of which the file is a tenth; but a disk may
/// be busy, and no row comes later with the name.
const PATIENCE_NS: u64 = 1_000_000_000;
/// How long it is waited at the start for all of root's, of which 16,384 take 3 s.
const MOST_NS: u64 = 30_000_000_000;
/// So old may names be that a file could have changed since.
const FRESH_NS: u64 = 100_000_000;
/// Containers that are known; with names of 100 bytes each 8 MB.
const MAX_KNOWN: usize = 16_384;

/// A container, and by whose word: an id in a cgroup that a user made is what that user says.
type Key = (Box<str>, u32);

#[derive(Default)]
struct Known {
    names: Option<Rc<Names>>,
    /// Where they may change.
    found: Option<Found>,
    bundle: Option<PathBuf>,
    /// Answers that are awaited.
    asked: u32,
    /// It waits for its turn.
    is_refused: bool,
    /// When the file was looked at last, or is to be; 0: never.
    asked_ns: u64,
}

pub struct ContainerNames {
    readers: Readers,
    /// Mount namespaces of the host.
    ours: Vec<u32>,
    known: HashMap<Key, Known>,
    shares: Shares<Key>,
    /// Of root, whose files hold nobody up.
    awaited: BTreeSet<(u64, Key)>,
    /// Too many were asked for; again when there is room.
    refused: VecDeque<Key>,
    /// When one of root's was answered last.
    answered_ns: u64,
    unnamed: Unnamed,
}

/// How often a container had no name, though there may be one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unnamed {
    /// Its file was not understood.
    pub misread: u64,
    /// Its file may not be read.
    pub denied: u64,
    /// Too many were asked for.
    pub unasked: u64,
}

/// What is known of a container that conmon calls so now. Of podman's each program that is run in
/// one has a conmon, with the name of that time: a file is read a little later, for which no row
/// of a user's waits, and has the image. Of others only a file has what people say.
fn told(before: Option<Rc<Names>>, name: Box<str>) -> Rc<Names> {
    let is_podmans =
        |names: &Names| matches!(names.source, NameSource::Conmon | NameSource::Storage);
    match before {
        None => Rc::new(of_conmon(&name)),
        Some(names) if !is_podmans(&names) || names.name.as_ref() == Some(&name) => names,
        Some(names) => {
            let (name, source) = (Some(name), NameSource::Conmon);
            Rc::new(Names { name, source, ..Names::clone(&names) })
        }
    }
}

impl ContainerNames {
    pub fn new(readers: Readers) -> Self {
        ContainerNames {
            readers,
            ours: proc::our_mount_namespaces(),
            known: HashMap::new(),
            shares: Shares::default(),
            awaited: BTreeSet::new(),
            refused: VecDeque::new(),
            answered_ns: 0,
            unnamed: Unnamed::default(),
        }
    }

    /// Somebody may start a container; `is_inside`: from within one.
    pub fn note(&mut self, event: &ProcessEvent, is_inside: impl FnOnce() -> bool) {
        let Change::Exec(image) = &event.change else { return };
        let Some(started) = image.args.as_ref().and_then(|args| started(args.iter())) else {
            return;
        };
        if is_believed(event.uid, image, &self.ours, is_inside) {
            self.started(started, event.uid, event.ts_ns);
        }
    }

    /// Somebody starts this container, or watches over it.
    fn started(&mut self, started: Started, uid: u32, ts_ns: u64) {
        let key = (started.id, uid);
        let known = self.entry(&key);
        if let Some(name) = started.name {
            known.names = Some(told(known.names.take(), name));
        }
        if started.bundle.is_some() {
            known.bundle = started.bundle;
        }
        self.ask(key, ts_ns);
    }

    /// All that are there, some of which are watched over.
    pub fn know<'a>(
        &mut self,
        watched: Vec<(Started, u32)>,
        all: impl Iterator<Item = (&'a str, u32)>,
        now_ns: u64,
    ) {
        for (started, uid) in watched {
            // A monitor has the name of when it was started, which may be long ago.
            let is_named = self.of(&started.id, uid).is_some();
            let name = started.name.filter(|_| !is_named);
            self.started(Started { name, ..started }, uid, now_ns);
        }
        for (id, uid) in all {
            self.seen(id, uid, now_ns);
        }
    }

    /// Records were lost: of those that have no name it is asked again.
    pub fn look_again<'a>(
        &mut self,
        watched: Vec<(Started, u32)>,
        all: impl Iterator<Item = (&'a str, u32)>,
        now_ns: u64,
    ) {
        for (started, uid) in watched {
            if self.of(&started.id, uid).is_none() {
                self.started(started, uid, now_ns);
            }
        }
        for (id, uid) in all {
            if self.of(id, uid).is_none() {
                self.seen(id, uid, now_ns);
            }
        }
    }

    /// What is known of any of root's. Users can say so of none that is there.
    pub fn all_of_root(&self) -> impl Iterator<Item = &Names> {
        let of_root = self.known.iter().filter(|((_, uid), _)| *uid == 0);
        of_root.filter_map(|(_, known)| known.names.as_deref())
    }

    /// There is such a container, or somebody connects from it.
    pub fn seen(&mut self, id: &str, uid: u32, ts_ns: u64) {
        if !is_full_id(id) {
            return;
        }
        let key = (Box::from(id), uid);
        match self.known.get(&key) {
            Some(known) if known.is_refused => {}
            Some(known) if known.asked > 0 || ts_ns < known.asked_ns.saturating_add(FRESH_NS) => {}
            // Nothing was found, and nothing changes what is not in a file.
            Some(known) if known.asked_ns != 0 && known.found.is_none() => {}
            _ => self.ask(key, ts_ns),
        }
    }

    fn entry(&mut self, key: &Key) -> &mut Known {
        if !self.known.contains_key(key) {
            while self.known.len() >= MAX_KNOWN
                && let Some(oldest) = self.shares.pop()
            {
                self.shares.discount(Some(oldest.1), 1);
                if let Some(known) = self.known.remove(&oldest) {
                    self.awaited.remove(&(known.asked_ns, oldest));
                }
            }
            let known = &self.known;
            self.shares.push(Some(key.1), key.clone(), 1, |key| known.contains_key(key));
        }
        self.known.entry(key.clone()).or_default()
    }

    fn ask(&mut self, key: Key, ts_ns: u64) {
        let known = self.entry(&key);
        let question = Question {
            id: key.0.clone(),
            uid: key.1,
            bundle: known.bundle.clone(),
            known: known.found.clone(),
        };
        if !self.readers.ask(question) {
            self.refuse(key);
            return;
        }
        let Some(known) = self.known.get_mut(&key) else { return };
        known.asked += 1;
        let before = (std::mem::replace(&mut known.asked_ns, ts_ns.max(1)), key);
        self.awaited.remove(&before);
        if before.1.1 == 0 {
            self.awaited.insert((ts_ns.max(1), before.1));
        }
    }

    /// Until others have been answered.
    fn refuse(&mut self, key: Key) {
        let Some(known) = self.known.get_mut(&key).filter(|known| !known.is_refused) else {
            return;
        };
        known.is_refused = self.refused.len() < MAX_KNOWN;
        match known.is_refused {
            true => self.refused.push_back(key),
            false => self.unnamed.unasked += 1,
        }
    }

    /// Takes the answers that are there.
    pub fn take_answers(&mut self) {
        while let Some(Answer { id, uid, said }) = self.readers.answer() {
            if uid == 0 {
                self.answered_ns = monotonic_ns();
            }
            self.take((id, uid), said);
            let Some(key) = self.refused.pop_front() else { continue };
            if let Some(known) = self.known.get_mut(&key) {
                known.is_refused = false;
                self.ask(key, monotonic_ns());
            }
        }
    }

    fn take(&mut self, key: Key, said: Outcome) {
        let Some(known) = self.known.get_mut(&key) else { return };
        known.asked = known.asked.saturating_sub(1);
        match said {
            // A file that is gone, as those of --rm are, takes no name away.
            Outcome::Unchanged | Outcome::Nothing(Why::Absent) => {}
            Outcome::Names(names, found) => {
                (known.names, known.found) = (Some(Rc::new(names)), found);
            }
            Outcome::Nothing(Why::Misread) => self.unnamed.misread += 1,
            Outcome::Nothing(Why::Denied) => self.unnamed.denied += 1,
        }
        if known.asked == 0 {
            self.awaited.remove(&(known.asked_ns, key));
        }
    }

    /// Rows from this time on wait for an answer.
    pub fn waits_from(&self, now_ns: u64) -> Option<u64> {
        let is_due = |ts_ns: &u64| now_ns < ts_ns.saturating_add(PATIENCE_NS);
        self.awaited.iter().map(|(ts_ns, _)| *ts_ns).find(is_due)
    }

    /// Whether all that was asked for since then has been answered, or has had its time: that of
    /// users a second, that of root as long as one answer comes after another.
    pub fn settles(&mut self, since_ns: u64, now_ns: u64) -> bool {
        self.take_answers();
        let is_over = |since_ns: u64| now_ns >= since_ns.saturating_add(PATIENCE_NS);
        let waits = |known: &Known| known.asked > 0 || known.is_refused;
        if is_over(since_ns) {
            let mut of_root = self.known.iter().filter(|((_, uid), _)| *uid == 0);
            return is_over(self.answered_ns)
                || now_ns >= since_ns.saturating_add(MOST_NS)
                || !of_root.any(|(_, known)| waits(known));
        }
        !self.known.values().any(waits)
    }

    /// With what is known of it; `owner`, 0 for root, made its cgroup. `None`: nobody says.
    pub fn named(&self, container: Container, owner: Option<u32>) -> Container {
        let names = owner.and_then(|owner| self.of(&container.id, owner));
        Container { names, ..container }
    }

    /// Whether there may be more to know of this one.
    pub fn is_awaited(&self, id: &str, uid: u32) -> bool {
        let known = self.known.get(&(Box::from(id), uid));
        known.is_some_and(|known| known.asked > 0 || known.is_refused)
    }

    /// What this one is called, by the word of that user.
    pub fn of(&self, id: &str, uid: u32) -> Option<Rc<Names>> {
        if let Some((name, runtime)) = name_in_id(id) {
            let (name, runtime, source) = (Some(name), Some(runtime), NameSource::Cgroup);
            return Some(Rc::new(Names { name, runtime, source, ..Names::default() }));
        }
        self.known.get(&(Box::from(id), uid))?.names.clone()
    }

    pub fn unnamed(&self) -> Unnamed {
        self.unnamed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_root_are_waited_for_while_they_are_answered() {
        let mut names = ContainerNames::new(Readers::start().unwrap());
        let id = "0".repeat(64);
        names.entry(&(Box::from(&*id), 0)).asked = 1;
        let (since_ns, answered_ns) = (MOST_NS, MOST_NS + PATIENCE_NS);
        names.answered_ns = answered_ns;
        assert!(!names.settles(since_ns, since_ns), "none has had its time");
        assert!(!names.settles(since_ns, answered_ns + PATIENCE_NS - 1), "one came just now");
        assert!(names.settles(since_ns, answered_ns + PATIENCE_NS), "no more come");
        names.answered_ns = since_ns + MOST_NS;
        assert!(!names.settles(since_ns, since_ns + MOST_NS - 1), "they still come");
        assert!(names.settles(since_ns, since_ns + MOST_NS), "it has been long enough");
        names.entry(&(Box::from(&*id), 0)).asked = 0;
        assert!(names.settles(since_ns, since_ns), "all are answered");
    }

    #[test]
    fn more_than_can_be_asked_for_at_once_are_all_answered() {
        let mut names = ContainerNames::new(Readers::start().unwrap());
        let ids: Vec<_> = (0..3 * 4_096).map(|n| format!("{n:064x}")).collect();
        names.know(Vec::new(), ids.iter().map(|id| (&**id, 0)), monotonic_ns());
        while ids.iter().any(|id| names.is_awaited(id, 0)) {
            names.take_answers();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(names.unnamed(), Unnamed::default());
    }
}
