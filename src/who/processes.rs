// SPDX-License-Identifier: Apache-2.0
//! Who a pid is and was: executable, arguments and ancestors of every process,
//! from the kernel's events, and from /proc for what was there before them.
//!
//! Events are applied in the order of their times, so the table always is as it
//! was when the connect that is looked up was made.

mod ancestors;

use std::cell::Cell;
use std::cell::OnceCell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::HashSet;
use std::ops::Deref;
use std::rc::Rc;

use anyhow::Result;

use self::ancestors::Ancestors;
use crate::clock::monotonic_ns;
use crate::host::proc::Stat;
use crate::host::proc::image_of;
use crate::host::proc::stat_of;
use crate::host::proc::whole_exe;
use crate::model::event::Connect;
use crate::model::process::Ancestor;
use crate::model::process::Args;
use crate::model::process::Change;
use crate::model::process::Comm;
use crate::model::process::Image;
use crate::model::process::MAX_PARENT_EXE;
use crate::model::process::ProcessEvent;
use crate::model::process::ProcessFacts;
use crate::model::process::ProcessList;
use crate::model::process::Source;
use crate::who::programs::Program;
use crate::who::programs::Programs;

/// exec_id of a child whose parent did not fork it (CLONE_PARENT): it runs
/// another program than its parent.
const NOT_ITS_PARENTS: u32 = u32::MAX;

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
    /// When something was last heard of it.
    cgroup_id: Cell<Option<u64>>,
    state: RefCell<State>,
}

/// What exec and rename change.
#[derive(Clone, Debug)]
struct State {
    name: Comm,
    program: Rc<Program>,
    exec_id: u32,
    source: Source,
}

impl Known {
    pub fn name(&self) -> Comm {
        self.state.borrow().name
    }

    pub fn image(&self) -> Rc<Image> {
        self.state.borrow().program.image()
    }

    /// In the pid namespace of this program.
    pub fn proc_pid(&self) -> u32 {
        self.proc_pid
    }

    /// Its cgroup when something was last heard of it, if that said so.
    pub fn cgroup_id(&self) -> Option<u64> {
        self.cgroup_id.get()
    }

    pub fn program(&self) -> Rc<Program> {
        Rc::clone(&self.state.borrow().program)
    }

    pub fn source(&self) -> Source {
        let state = self.state.borrow();
        if state.program.is_known() { state.source } else { Source::None }
    }

    fn exec_id(&self) -> u32 {
        self.state.borrow().exec_id
    }

    /// A child has its parent's exec_id, so a later one means that the parent's last
    /// exec was lost. An earlier one is of a fork before the list at start was made.
    fn forked_as(&self, exec_id: u32) {
        let mut state = self.state.borrow_mut();
        if exec_id > state.exec_id && exec_id != NOT_ITS_PARENTS {
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
    /// A copy that later execs and renames do not change; its ancestors are shared and still
    /// change.
    pub fn frozen(&self) -> Self {
        let (state, cgroup_id) = (self.state.clone(), self.cgroup_id.clone());
        let known = Known { state, cgroup_id, ..*self.known };
        Process {
            known: Rc::new(known),
            ancestors: Rc::clone(&self.ancestors),
            of_children: OnceCell::new(),
            descends: self.descends,
        }
    }

    /// What a row shows of it.
    pub fn facts(&self, with_ancestors: bool) -> ProcessFacts {
        // The kernel's own first processes have no parent.
        let is_parent_known =
            !self.ancestors.is_empty() || self.ppid == 0 && self.source() != Source::None;
        ProcessFacts {
            pid: self.pid,
            start_ns: self.start_ns,
            ppid: self.ppid,
            name: self.name(),
            image: self.image(),
            source: self.source(),
            ancestors: (with_ancestors && is_parent_known).then(|| self.ancestors().collect()),
        }
    }

    /// From the parent up: at most 32, then, if there are more than 36, how many are
    /// left out, and the last 4.
    pub fn ancestors(&self) -> impl Iterator<Item = Ancestor> {
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
#[derive(Default)]
pub struct Processes {
    alive: HashMap<u32, Rc<Process>>,
    programs: Programs,
    kernel: Option<Rc<dyn ProcessList>>,
    /// Those not in the kernel's list of this time: gone without notice, unless their end was
    /// reported before it.
    gone: Option<(u64, Vec<(u32, u64)>)>,
    /// Whose descendants are asked for, by the numbers that they have here.
    roots: Vec<u32>,
}

impl Processes {
    /// From the kernel's lists before and after /proc is read: where they
    /// differ, /proc may have shown a later program than the first list means.
    pub fn scan(roots: Vec<u32>, kernel: Rc<dyn ProcessList>) -> Result<Self> {
        let before = kernel.list()?;
        let images = before.iter().map(|e| image_of(e.proc_pid)).collect();
        Processes::with_images(roots, kernel, &before, images)
    }

    /// With what /proc has just shown of those in the kernel's list.
    pub fn with_images(
        roots: Vec<u32>,
        kernel: Rc<dyn ProcessList>,
        before: &[ProcessEvent],
        images: Vec<Option<Image>>,
    ) -> Result<Self> {
        let after: HashMap<_, _> = kernel
            .list()?
            .into_iter()
            .map(|e| ((e.pid, e.start_ns), (e.exec_id, e.file)))
            .collect();
        let mut processes = Processes { roots, kernel: Some(kernel), ..Processes::default() };
        processes.alive.reserve(before.len());
        let mut states = Vec::with_capacity(before.len());
        for (e, image) in before.iter().zip(images) {
            let unchanged = after.get(&(e.pid, e.start_ns)) == Some(&(e.exec_id, e.file));
            let image = image.filter(|_| unchanged);
            let image = image.map(|image| Image { file: e.file.or(image.file), ..image });
            states.push(Some(processes.shown_by_procfs(e.name, Some(e.uid), image, e.exec_id)));
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
                let parent = (e.parent != 0).then(|| processes.parent(e, None));
                processes.add(e, parent.as_deref(), state.expect("only those not yet added"));
            }
        }
        Ok(processes)
    }

    /// The live ones by their pids in the pid namespace of this program.
    pub fn by_proc_pid(&self) -> HashMap<u32, Rc<Process>> {
        let seen = self.alive.values().filter(|process| process.proc_pid != 0);
        seen.map(|process| (process.proc_pid, Rc::clone(process))).collect()
    }

    pub fn len(&self) -> usize {
        self.alive.len()
    }

    pub fn is_empty(&self) -> bool {
        self.alive.is_empty()
    }

    pub fn apply(&mut self, event: &ProcessEvent) {
        if let Some(process) = self.same(event.pid, event.start_ns) {
            process.cgroup_id.set(event.cgroup_id.or(process.cgroup_id.get()));
        }
        match &event.change {
            Change::Fork => {
                self.born(event, None);
            }
            Change::Exec(image) => {
                let state = State {
                    name: event.name,
                    program: self.programs.keep(event.uid, image.clone()),
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
                if self.same(event.pid, event.start_ns).is_some()
                    && let Some(gone) = self.alive.remove(&event.pid)
                {
                    self.shorten(&gone);
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

    /// Of a dead process others show no more than its path.
    fn shorten(&self, gone: &Process) {
        if Rc::strong_count(&gone.known) == 1 {
            return;
        }
        let mut state = gone.state.borrow_mut();
        let image = state.program.image();
        let exe = image.exe.as_deref().unwrap_or_default();
        if image.args.as_ref().is_none_or(Args::is_empty) && exe.len() <= MAX_PARENT_EXE {
            return;
        }
        let exe = image
            .exe
            .as_ref()
            .map(|exe| exe[exe.len().saturating_sub(MAX_PARENT_EXE + 1)..].into());
        let short = Image { exe, args: None, ..Image::clone(&image) };
        state.program = self.programs.keep(state.program.uid(), short);
    }

    /// Without a state of its own it runs its parent's program.
    fn born(&mut self, event: &ProcessEvent, state: Option<State>) {
        if state.is_none() && self.same(event.pid, event.start_ns).is_some() {
            // The list at start had it already, and is the later word.
            return;
        }
        // A child runs what its parent ran when it forked.
        let exec_id = match event.change {
            Change::Fork => Some(event.exec_id).filter(|&id| id != NOT_ITS_PARENTS),
            _ => None,
        };
        let parent = (event.parent != 0).then(|| self.parent(event, exec_id));
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
            cgroup_id: Cell::new(event.cgroup_id),
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
    fn parent(&mut self, event: &ProcessEvent, exec_id: Option<u32>) -> Rc<Process> {
        if let Some(parent) = self.same(event.parent, event.parent_start_ns) {
            return Rc::clone(parent);
        }
        let late = Late {
            pid: event.parent,
            proc_pid: event.parent,
            start_ns: event.parent_start_ns,
            name: None,
            uid: Some(event.uid),
            exec_id,
        };
        self.found_late(late)
    }

    fn found_late(&mut self, late: Late) -> Rc<Process> {
        let (ppid, state) = self.look_up(&late);
        let Late { pid, proc_pid, start_ns, .. } = late;
        let is_there = ppid.is_some();
        let ppid = ppid.unwrap_or(0);
        let (cgroup_id, state) = (Cell::default(), RefCell::new(state));
        let known = Known { pid, start_ns, ppid, proc_pid, cgroup_id, state };
        // As /proc has just shown it.
        let parent = self.now(ppid).filter(|p| is_there && p.start_ns <= start_ns);
        let process = Rc::new(self.child(known, parent.as_deref()));
        if is_there {
            self.alive.insert(pid, Rc::clone(&process));
        }
        process
    }

    /// The process behind a connect. One whose fork or exec was lost is looked
    /// for in /proc.
    pub fn of(&mut self, connect: &Connect) -> Rc<Process> {
        let known = self.same(connect.pid, connect.start_ns).map(Rc::clone);
        let late = Late::behind(connect, known.as_deref());
        let Some(process) = known else { return self.found_late(late) };
        let exec_id = process.exec_id();
        if exec_id == connect.exec_id {
            self.complete(&process);
            return process;
        }
        if exec_id > connect.exec_id && exec_id != NOT_ITS_PARENTS {
            // Older than the list at start: no source knows it any more.
            let before = process.frozen();
            *before.state.borrow_mut() = unknown(connect.leader, connect.exec_id);
            return Rc::new(before);
        }
        let state = self.look_up(&late).1;
        *process.state.borrow_mut() = state;
        process
    }

    /// The process on the other end of a connection. It may be newer than the last event
    /// applied, so nothing that is found of it is kept: older rows are still to come, and
    /// would have a later program.
    pub fn of_other(&self, connect: &Connect) -> Rc<Process> {
        let known = self.same(connect.pid, connect.start_ns);
        if let Some(process) = known.filter(|process| process.exec_id() == connect.exec_id) {
            return Rc::clone(process);
        }
        let late = Late::behind(connect, known.map(Rc::as_ref));
        let (ppid, state) = self.look_up(&late);
        let Late { pid, proc_pid, start_ns, .. } = late;
        let ppid = ppid.unwrap_or(0);
        let (cgroup_id, state) = (Cell::default(), RefCell::new(state));
        let found = Known { pid, start_ns, ppid, proc_pid, cgroup_id, state };
        Rc::new(self.child(found, None))
    }

    /// Looks for the whole of a path of which only the end is known.
    fn complete(&self, process: &Known) {
        let program = process.program();
        let image = program.image();
        if image.exe_truncated
            && let Some(exe) = whole_exe(process.proc_pid, &image)
        {
            let exe = Some(exe);
            let whole = Image { exe, exe_truncated: false, ..Image::clone(&image) };
            process.state.borrow_mut().program = self.programs.keep(program.uid(), whole);
        }
    }

    /// Who this process is now, if it still is that process and runs that program;
    /// and its parent, if it lives.
    fn look_up(&self, late: &Late) -> (Option<u32>, State) {
        let is_it = |stat: &Stat| stat.is(late.start_ns) && !stat.is_exiting;
        let ask = || self.kernel.as_ref()?.now(late.proc_pid, late.start_ns);
        let exec_id = |now: &Option<ProcessEvent>| now.as_ref().map(|now| now.exec_id);
        let stat = stat_of(late.proc_pid).filter(is_it);
        let before = match late.exec_id {
            Some(exec_id) => Some(Some(exec_id)),
            None => stat.as_ref().and_then(|_| ask()).as_ref().map(exec_id),
        };
        let image = stat.as_ref().and(before).and_then(|_| image_of(late.proc_pid));
        let now = image.as_ref().and_then(|_| ask());
        let after = now.as_ref().map(exec_id);
        // Only if it lives on, and runs no later program, is what was read its own. A
        // parent that the kernel does not list is as /proc has it.
        let is_parent = late.name.is_none();
        let is_same = match after {
            Some(Some(_)) => after == before,
            Some(None) => is_parent,
            None => false,
        };
        let image = image.filter(|_| is_same && stat_of(late.proc_pid).as_ref().is_some_and(is_it));
        let name = late.name.or(stat.as_ref().map(|stat| stat.name)).unwrap_or_default();
        let file = now.flatten().and_then(|now| now.file);
        let image = image.map(|image| Image { file: file.or(image.file), ..image });
        // Where the kernel was not asked, or does not say, the next connect looks again.
        let exec_id = after.flatten().and(before).flatten().unwrap_or(0);
        let state = self.shown_by_procfs(name, late.uid, image, exec_id);
        (stat.map(|stat| stat.parent), state)
    }

    fn shown_by_procfs(
        &self,
        name: Comm,
        uid: Option<u32>,
        image: Option<Image>,
        exec_id: u32,
    ) -> State {
        // Each that is kept takes some of a user's share.
        match image.zip(uid) {
            Some((image, uid)) => {
                let program = self.programs.keep(uid, image);
                State { name, program, exec_id, source: Source::Procfs }
            }
            None => unknown(name, exec_id),
        }
    }

    /// Records were lost: looks who has gone without notice. One pass over the kernel's
    /// list takes 1 us a process, to look into /proc for each took 10.
    pub fn look_for_gone(&mut self) {
        let listed = self.kernel.as_ref().and_then(|kernel| kernel.list().ok());
        let Some(listed) = listed else { return };
        let listed: HashSet<_> = listed.iter().map(|e| (e.pid, e.start_ns)).collect();
        let now_ns = monotonic_ns();
        let ids = self.alive.values().map(|process| (process.pid, process.start_ns));
        // Not all kernels list pid 1, and it never goes.
        let gone = ids.filter(|id| id.0 != 1 && !listed.contains(id)).collect();
        self.gone = Some((now_ns, gone));
    }

    /// All that the kernel reported until `until_ns` is applied.
    pub fn applied(&mut self, until_ns: u64) {
        let Some((_, gone)) = self.gone.take_if(|(at_ns, _)| *at_ns < until_ns) else { return };
        for (pid, start_ns) in gone {
            if self.same(pid, start_ns).is_some()
                && let Some(gone) = self.alive.remove(&pid)
            {
                self.shorten(&gone);
            }
        }
    }

    /// Programs that there was no room to keep.
    pub fn taken_back(&self) -> u64 {
        self.programs.taken_back()
    }
}

/// A process whose fork or exec was lost.
struct Late {
    pid: u32,
    proc_pid: u32,
    start_ns: u64,
    name: Option<Comm>,
    uid: Option<u32>,
    /// If it is known which of its programs is asked for.
    exec_id: Option<u32>,
}

impl Late {
    fn behind(connect: &Connect, known: Option<&Process>) -> Self {
        Late {
            pid: connect.pid,
            proc_pid: known.map_or(connect.pid, |process| process.proc_pid),
            start_ns: connect.start_ns,
            name: Some(connect.leader),
            uid: connect.uid,
            exec_id: Some(connect.exec_id),
        }
    }
}

fn unknown(name: Comm, exec_id: u32) -> State {
    State { name, program: Rc::default(), exec_id, source: Source::None }
}

#[cfg(test)]
mod tests;
