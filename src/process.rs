// SPDX-License-Identifier: Apache-2.0
//! Who a pid is and was: executable, arguments and ancestors of every process,
//! from the kernel's events, and from /proc for what was there before them.
//!
//! Events are applied in the order of their times, so the table always is as it
//! was when the connect that is looked up was made.

mod ancestors;
mod procfs;

use std::cell::OnceCell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;

use anyhow::Result;

pub use self::ancestors::Ancestor;
use self::ancestors::Ancestors;
use self::procfs::Stat;
pub use self::procfs::descendants;
pub use self::procfs::exists;
use self::procfs::image_of;
pub use self::procfs::is_alive;
use self::procfs::stat_of;
use crate::event::Change;
use crate::event::Comm;
use crate::event::Connect;
use crate::event::Image;
use crate::event::ProcessEvent;

/// exec_id of a child whose parent did not fork it (CLONE_PARENT): it runs
/// another program than its parent.
const NOT_ITS_PARENTS: u32 = u32::MAX;

/// Where the facts about a process's program come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its own exec.
    Exec,
    /// It runs its parent's program.
    Fork,
    /// It was there before the tracer, or its exec was lost.
    Procfs,
    /// Its exec was lost, and it is gone.
    None,
}

impl Source {
    pub fn name(self) -> &'static str {
        match self {
            Source::Exec => "exec",
            Source::Fork => "fork",
            Source::Procfs => "procfs",
            Source::None => "none",
        }
    }
}

/// What is known of a process, for itself and for its descendants: lives as long as
/// one of them does.
#[derive(Debug)]
pub struct Known {
    pub pid: u32,
    /// CLOCK_BOOTTIME, nanoseconds.
    pub start_ns: u64,
    /// The process that forked it; 0 if the kernel did.
    pub ppid: u32,
    proc_pid: u32,
    state: RefCell<State>,
}

/// What exec and rename change.
#[derive(Clone, Debug)]
struct State {
    name: Comm,
    image: Rc<Image>,
    exec_id: u32,
    source: Source,
}

impl Known {
    pub fn name(&self) -> Comm {
        self.state.borrow().name
    }

    pub fn image(&self) -> Rc<Image> {
        Rc::clone(&self.state.borrow().image)
    }

    /// In the pid namespace of this program.
    pub fn proc_pid(&self) -> u32 {
        self.proc_pid
    }

    pub fn source(&self) -> Source {
        self.state.borrow().source
    }

    /// A child has its parent's exec_id, so another one means that the parent's
    /// last exec was lost. What /proc told of a parent has none.
    fn forked_as(&self, exec_id: u32) {
        let mut state = self.state.borrow_mut();
        if ![0, exec_id].contains(&state.exec_id) && exec_id != NOT_ITS_PARENTS {
            *state = unknown(state.name, exec_id);
        }
    }
}

/// A process that is alive, or was when it was looked at.
#[derive(Debug)]
pub struct Process {
    known: Rc<Known>,
    ancestors: Rc<Ancestors>,
    /// The same for all its children.
    of_children: OnceCell<Rc<Ancestors>>,
    /// From one of the roots, however long ago.
    descends: bool,
}

impl Deref for Process {
    type Target = Known;

    fn deref(&self) -> &Known {
        &self.known
    }
}

impl Process {
    /// As it is now, whatever it runs later. Its ancestors do go on.
    pub fn frozen(&self) -> Self {
        let known = Known { state: self.state.clone(), ..*self.known };
        Process {
            known: Rc::new(known),
            ancestors: Rc::clone(&self.ancestors),
            of_children: OnceCell::new(),
            descends: self.descends,
        }
    }

    /// Whether `ancestors` begins with the parent; the kernel's own first
    /// processes have none.
    pub fn has_known_parent(&self) -> bool {
        !self.ancestors.is_empty() || self.ppid == 0 && self.source() != Source::None
    }

    /// From the parent up: at most 32, then, if there are more than 36, how many are
    /// left out, and the last 4.
    pub fn ancestors(&self) -> impl Iterator<Item = Ancestor<'_>> {
        self.ancestors.iter()
    }

    /// Whether a root is among its ancestors, those left out included.
    pub fn descends_from_root(&self) -> bool {
        self.descends
    }

    fn of_children(&self) -> Rc<Ancestors> {
        Rc::clone(self.of_children.get_or_init(|| Rc::new(self.ancestors.of_child(&self.known))))
    }
}

/// All live processes. The dead are known to those that descend from them.
#[derive(Debug, Default)]
pub struct Processes {
    alive: HashMap<u32, Rc<Process>>,
    /// Whose descendants are asked for, by the numbers that they have here.
    roots: Vec<u32>,
}

impl Processes {
    /// From the kernel's lists before and after /proc is read: where they
    /// differ, /proc may have shown a later program than the first list means.
    pub fn scan(roots: Vec<u32>, list: impl Fn() -> Result<Vec<ProcessEvent>>) -> Result<Self> {
        let before = list()?;
        let images: Vec<_> = before.iter().map(|e| image_of(e.proc_pid)).collect();
        let after: HashMap<_, _> =
            list()?.into_iter().map(|e| ((e.pid, e.start_ns), e.exec_id)).collect();
        let mut processes = Processes { roots, ..Processes::default() };
        processes.alive.reserve(before.len());
        let mut states = Vec::with_capacity(before.len());
        for (e, image) in before.iter().zip(images) {
            let unchanged = after.get(&(e.pid, e.start_ns)) == Some(&e.exec_id);
            let image = image.filter(|_| unchanged);
            states.push(Some(State {
                name: e.name,
                source: if image.is_some() { Source::Procfs } else { Source::None },
                image: Rc::new(image.unwrap_or_default()),
                exec_id: e.exec_id,
            }));
        }
        let places: HashMap<_, _> = before.iter().enumerate().map(|(i, e)| (e.pid, i)).collect();
        let mut reached = vec![false; before.len()];
        let mut line = Vec::new();
        for i in 0..before.len() {
            // Parents come first.
            let mut next = Some(i);
            while let Some(i) = next.filter(|&i| !reached[i]) {
                reached[i] = true;
                line.push(i);
                next = places.get(&before[i].parent).copied();
            }
            while let Some(i) = line.pop() {
                let (e, state) = (&before[i], states[i].take());
                let parent = (e.parent != 0).then(|| processes.parent(e));
                processes.add(e, parent.as_deref(), state.expect("only those not yet added"));
            }
        }
        Ok(processes)
    }

    pub fn len(&self) -> usize {
        self.alive.len()
    }

    pub fn is_empty(&self) -> bool {
        self.alive.is_empty()
    }

    pub fn apply(&mut self, event: &ProcessEvent) {
        match &event.change {
            Change::Fork => {
                self.born(event, None);
            }
            Change::Exec(image) => {
                let state = State {
                    name: event.name,
                    image: Rc::new(image.clone()),
                    exec_id: event.exec_id,
                    source: Source::Exec,
                };
                match self.same(event.pid, event.start_ns) {
                    Some(process) => *process.state.borrow_mut() = state,
                    None => self.born(event, Some(state)),
                }
            }
            Change::Rename(comm) => {
                let process = self.same(event.pid, event.start_ns);
                if let Some(process) = process.filter(|_| event.tid == event.pid) {
                    process.state.borrow_mut().name = *comm;
                }
            }
            Change::Exit(_) => {
                if self.same(event.pid, event.start_ns).is_some() {
                    self.alive.remove(&event.pid);
                }
            }
        }
    }

    /// The live process of this number.
    pub fn now(&self, pid: u32) -> Option<Rc<Process>> {
        self.alive.get(&pid).cloned()
    }

    fn same(&self, pid: u32, start_ns: u64) -> Option<&Rc<Process>> {
        self.alive.get(&pid).filter(|process| process.start_ns == start_ns)
    }

    /// Without a state of its own it runs its parent's program.
    fn born(&mut self, event: &ProcessEvent, state: Option<State>) {
        let parent = (event.parent != 0).then(|| self.parent(event));
        let state = state.unwrap_or_else(|| {
            if let Some(parent) = &parent {
                parent.forked_as(event.exec_id);
            }
            let inherited = parent.as_ref().map(|p| p.state.borrow().clone());
            match inherited.filter(|state| state.exec_id == event.exec_id) {
                Some(state) if state.source == Source::None => State { name: event.name, ..state },
                Some(state) => State { name: event.name, source: Source::Fork, ..state },
                None => unknown(event.name, event.exec_id),
            }
        });
        self.add(event, parent.as_deref(), state);
    }

    fn add(&mut self, event: &ProcessEvent, parent: Option<&Process>, state: State) {
        let known = Known {
            pid: event.pid,
            start_ns: event.start_ns,
            ppid: event.parent,
            proc_pid: event.proc_pid,
            state: RefCell::new(state),
        };
        let process = self.child(known, parent);
        self.alive.insert(event.pid, Rc::new(process));
    }

    fn child(&self, known: Known, parent: Option<&Process>) -> Process {
        let is_root = |parent: &Process| self.roots.contains(&parent.proc_pid);
        Process {
            known: Rc::new(known),
            ancestors: parent.map(Process::of_children).unwrap_or_default(),
            of_children: OnceCell::new(),
            descends: parent.is_some_and(|parent| parent.descends || is_root(parent)),
        }
    }

    /// From /proc if its own fork was lost, or the kernel has not listed it: on
    /// one machine's 6.18 the list lacks pid 1.
    fn parent(&mut self, event: &ProcessEvent) -> Rc<Process> {
        if let Some(parent) = self.same(event.parent, event.parent_start_ns) {
            return Rc::clone(parent);
        }
        self.found_late(event.parent, event.parent_start_ns, None)
    }

    fn found_late(&mut self, pid: u32, start_ns: u64, connect: Option<&Connect>) -> Rc<Process> {
        let late = found_late(pid, start_ns, connect);
        let is_there = late.state.borrow().source == Source::Procfs;
        // As /proc has just told it.
        let parent = self.now(late.ppid).filter(|p| is_there && p.start_ns <= late.start_ns);
        let late = Rc::new(self.child(late, parent.as_deref()));
        if is_there {
            self.alive.insert(pid, Rc::clone(&late));
        }
        late
    }

    /// The process behind a connect. One whose fork or exec was lost is looked
    /// for in /proc.
    pub fn of(&mut self, connect: &Connect) -> Rc<Process> {
        if let Some(process) = self.same(connect.pid, connect.start_ns) {
            if process.state.borrow().exec_id == connect.exec_id {
                return Rc::clone(process);
            }
            let late = found_late(connect.pid, connect.start_ns, Some(connect));
            let state = late.state.borrow().clone();
            *process.state.borrow_mut() = state;
            return Rc::clone(process);
        }
        self.found_late(connect.pid, connect.start_ns, Some(connect))
    }

    /// Drops those that are gone, for when their exits were lost.
    pub fn sweep(&mut self) {
        self.alive.retain(|_, process| is_alive(process.proc_pid, process.start_ns));
    }
}

fn unknown(name: Comm, exec_id: u32) -> State {
    State { name, image: Rc::default(), exec_id, source: Source::None }
}

/// Who this process is now, if it still is that process.
fn found_late(pid: u32, start_ns: u64, connect: Option<&Connect>) -> Known {
    let is_it = |stat: &Stat| stat.is(start_ns);
    let stat = stat_of(pid).filter(is_it);
    let image = stat.as_ref().and_then(|_| image_of(pid));
    // Only if it lives on is what was read in between its own.
    let image = image.filter(|_| stat_of(pid).as_ref().is_some_and(is_it));
    let name =
        connect.map_or_else(|| stat.as_ref().map(|s| s.name).unwrap_or_default(), |c| c.leader);
    let state = State {
        name,
        source: if image.is_some() { Source::Procfs } else { Source::None },
        image: Rc::new(image.unwrap_or_default()),
        exec_id: connect.map_or(0, |c| c.exec_id),
    };
    let ppid = stat.map_or(0, |stat| stat.parent);
    Known { pid, start_ns, ppid, proc_pid: pid, state: RefCell::new(state) }
}

#[cfg(test)]
mod tests;
