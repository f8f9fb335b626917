// SPDX-License-Identifier: Apache-2.0
//! What people call containers. Asked for when a container is started or its cgroup made, before
//! there is a process in it, and kept by its id: who connects finds them here. Rows that come
//! after a question wait a moment for the answer; the loop does not.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use crate::host::containers::Answer;
use crate::host::containers::Found;
use crate::host::containers::Outcome;
use crate::host::containers::Question;
use crate::host::containers::Readers;
use crate::host::containers::Started;
use crate::host::containers::is_in;
use crate::host::containers::of_conmon;
use crate::host::containers::started;
use crate::host::proc;
use crate::model::container::Container;
use crate::model::container::NameSource;
use crate::model::container::Names;
use crate::model::container::Runtime;
use crate::model::container::is_full_id;
use crate::model::process::Change;
use crate::model::process::ProcessEvent;
use crate::model::shares::Shares;

/// How long rows wait for an answer. One takes 1 ms, of which the file is a tenth; but a disk may
/// be busy, and no row comes later with the name.
const PATIENCE_NS: u64 = 1_000_000_000;
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
    name: Option<Box<str>>,
    bundle: Option<PathBuf>,
    /// Answers that are awaited.
    asked: u32,
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
    unread: u64,
    misread: u64,
}

impl ContainerNames {
    pub fn new(readers: Readers) -> Self {
        ContainerNames {
            readers,
            ours: proc::our_mount_namespaces(),
            known: HashMap::new(),
            shares: Shares::default(),
            awaited: BTreeSet::new(),
            unread: 0,
            misread: 0,
        }
    }

    /// Somebody may start a container.
    pub fn note(&mut self, event: &ProcessEvent) {
        let Change::Exec(image) = &event.change else { return };
        let Some(started) = image.args.as_ref().and_then(|args| started(args.iter())) else {
            return;
        };
        // Root in a container has no right to speak of others.
        if event.uid != 0 || is_in(&self.ours, image) {
            self.started(started, event.uid, event.ts_ns);
        }
    }

    /// Somebody starts this container, or watches over it.
    fn started(&mut self, started: Started, uid: u32, ts_ns: u64) {
        let key = (started.id, uid);
        let known = self.entry(&key);
        if let Some(name) = started.name {
            // Until there is more, and if no file may be read.
            known.names.get_or_insert_with(|| Rc::new(of_conmon(&name)));
            known.name = Some(name);
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
            self.started(started, uid, now_ns);
        }
        for (id, uid) in all {
            self.seen(id, uid, now_ns);
        }
    }

    /// There is such a container, or somebody connects from it.
    pub fn seen(&mut self, id: &str, uid: u32, ts_ns: u64) {
        if !is_full_id(id) {
            return;
        }
        let key = (Box::from(id), uid);
        match self.known.get(&key) {
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
            name: known.name.clone(),
            bundle: known.bundle.clone(),
            known: known.found.clone(),
        };
        let before = (std::mem::replace(&mut known.asked_ns, ts_ns.max(1)), key);
        if !self.readers.ask(question) {
            self.unread += 1;
            return;
        }
        let (before_ns, key) = before;
        self.awaited.remove(&(before_ns, key.clone()));
        if let Some(known) = self.known.get_mut(&key) {
            known.asked += 1;
        }
        if key.1 == 0 {
            self.awaited.insert((ts_ns.max(1), key));
        }
    }

    /// Takes the answers that are there.
    pub fn take_answers(&mut self) {
        while let Some(Answer { id, uid, said }) = self.readers.answer() {
            let key = (id, uid);
            let Some(known) = self.known.get_mut(&key) else {
                self.awaited.retain(|(_, awaited)| *awaited != key);
                continue;
            };
            known.asked = known.asked.saturating_sub(1);
            match said {
                // A file that is gone, as those of --rm are, takes no name away.
                Outcome::Unchanged => {}
                Outcome::Names(names, _) if names.source == NameSource::Conmon => {
                    known.names.get_or_insert_with(|| Rc::new(names));
                }
                Outcome::Names(names, found) => {
                    (known.names, known.found) = (Some(Rc::new(names)), found);
                }
                Outcome::Nothing { misread } => self.misread += u64::from(misread),
            }
            if known.asked == 0 {
                self.awaited.remove(&(known.asked_ns, key));
            }
        }
    }

    /// Rows from this time on wait for an answer.
    pub fn waits_from(&self, now_ns: u64) -> Option<u64> {
        let is_due = |ts_ns: &u64| now_ns < ts_ns.saturating_add(PATIENCE_NS);
        self.awaited.iter().map(|(ts_ns, _)| *ts_ns).find(is_due)
    }

    /// Whether all that was asked for has been answered, or has had its time.
    pub fn settles(&mut self, now_ns: u64) -> bool {
        self.take_answers();
        let waits =
            |known: &Known| known.asked > 0 && now_ns < known.asked_ns.saturating_add(PATIENCE_NS);
        !self.known.values().any(waits)
    }

    /// With what is known of it; `owner`, 0 for root, made its cgroup. What a user's cgroup of
    /// version 1 claims has no owner, and no name.
    pub fn named(&self, container: Container, owner: u32) -> Container {
        let names = match container.claimed && owner == 0 {
            true => None,
            false => self.names(&container.id, owner),
        };
        Container { names, ..container }
    }

    fn names(&self, id: &str, uid: u32) -> Option<Rc<Names>> {
        // LXC has names for ids.
        if !is_full_id(id) {
            let (name, runtime) = (Some(id.into()), Some(Runtime::Lxc));
            let source = NameSource::Cgroup;
            return Some(Rc::new(Names { name, runtime, source, ..Names::default() }));
        }
        self.known.get(&(Box::from(id), uid))?.names.clone()
    }

    /// Files that were not understood.
    pub fn misread(&self) -> u64 {
        self.misread
    }

    /// Containers of which nobody was asked, for too many were.
    pub fn unread(&self) -> u64 {
        self.unread
    }
}
