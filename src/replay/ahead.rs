// SPDX-License-Identifier: Apache-2.0
//! Files are opened when their turn comes. Where an answer takes no more than a look at most of
//! them, threads do both before.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;

use super::folder;
use super::folder::Folder;
use super::source::Looked;
use super::source::Opened;

/// Each holds what a group of rows takes to be looked at, 128 MiB at most.
const MAX_THREADS: usize = 4;
/// Files that are open before their turn, or being opened, with some 3 MiB of what was found in each.
const MAX_HELD: usize = 8;

pub(super) struct Ahead(Arc<Shared>);

struct Shared {
    looked: Looked,
    files: Vec<Named>,
    state: Mutex<State>,
    /// What was opened was taken, or something was opened.
    changed: Condvar,
}

/// A file, and where it was found, unless it was named.
pub(super) struct Named {
    pub(super) path: PathBuf,
    pub(super) folder: Option<Folder>,
}

struct State {
    /// Of each file.
    places: Vec<Place>,
    /// Files whose turns come one after the other; before the first of these each was opened.
    order: Vec<usize>,
    next: usize,
    held: usize,
    is_over: bool,
}

#[derive(Default)]
enum Place {
    Waiting,
    Opening,
    Opened(Opened),
    #[default]
    Taken,
}

impl Ahead {
    /// `order`: in which they will be asked for, as far as that is known. `has_room`: more files may be
    /// open than one of each input.
    pub(super) fn new(
        files: Vec<Named>,
        order: Vec<usize>,
        looked: Looked,
        has_room: bool,
    ) -> Self {
        let is_worth_it = looked.is_ahead() && files.len() > 1 && has_room;
        let places = files.iter().map(|_| Place::Waiting).collect();
        let state = State { places, order, next: 0, held: 0, is_over: false };
        let state = Mutex::new(state);
        let shared = Arc::new(Shared { looked, files, state, changed: Condvar::new() });
        let count = if is_worth_it { threads() } else { 0 };
        for _ in 0..count {
            let shared = Arc::clone(&shared);
            let reader = thread::Builder::new().name("reader".to_owned());
            // Where none may be started, files are opened in their turn.
            if reader.spawn(move || shared.run()).is_err() {
                break;
            }
        }
        Ahead(shared)
    }

    pub(super) fn looked(&self) -> &Looked {
        &self.0.looked
    }

    pub(super) fn path(&self, file: usize) -> &Path {
        &self.0.files[file].path
    }

    /// Its turn has come, which is once.
    pub(super) fn take(&self, file: usize) -> io::Result<Opened> {
        let mut state = self.0.state();
        while let Place::Opening = state.places[file] {
            state = self.0.wait(state);
        }
        match std::mem::take(&mut state.places[file]) {
            Place::Opened(opened) => {
                state.held -= 1;
                self.0.changed.notify_all();
                Ok(opened)
            }
            _ => {
                drop(state);
                self.0.open(file)
            }
        }
    }
}

/// As many as there are processors; beside a single one a thread would only take turns with the reader.
fn threads() -> usize {
    match thread::available_parallelism() {
        Ok(processors) if processors.get() > 1 => processors.get().min(MAX_THREADS),
        _ => 0,
    }
}

/// Nobody waits for the threads: each ends after the file that it is at.
impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.state().is_over = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, file: usize) -> io::Result<Opened> {
        let Named { path, folder } = &self.files[file];
        folder::open(path, folder.as_ref()).map(|file| Opened::of(file, path, &self.looked))
    }

    /// Opens one file after the other before its turn.
    fn run(&self) {
        let mut state = self.state();
        while !state.is_over {
            if state.held == MAX_HELD {
                state = self.wait(state);
                continue;
            }
            let Some(&file) = state.order.get(state.next) else { return };
            state.next += 1;
            if !matches!(state.places[file], Place::Waiting) {
                continue;
            }
            state.places[file] = Place::Opening;
            state.held += 1;
            drop(state);
            let opened = self.open_ahead(file);
            state = self.state();
            state.places[file] = match opened {
                Some(opened) => Place::Opened(opened),
                None => {
                    state.held -= 1;
                    Place::Waiting
                }
            };
            self.changed.notify_all();
        }
    }

    /// What cannot be opened may be in its turn, and whoever opens a pipe waits for its writer.
    fn open_ahead(&self, file: usize) -> Option<Opened> {
        let Named { path, folder } = &self.files[file];
        // Those in a folder are opened without waiting.
        if folder.is_none() && !fs::metadata(path).is_ok_and(|meta| meta.is_file()) {
            return None;
        }
        let mut opened = self.open(file).ok()?;
        opened.look_ahead();
        Some(opened)
    }
}
