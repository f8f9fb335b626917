// SPDX-License-Identifier: Apache-2.0
//! What /proc shows of the processes that hold sockets, for options that ask who. It is read
//! while rows are made, once for each process, and not all of it is kept.
//!
//! A number of a process can be used again. What was read is of the process that was seen to
//! hold a socket if that is older than the snapshot, for then nobody else had the number since;
//! or if it still holds the socket.

use std::borrow::Cow;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::rc::Weak;
use std::time::Duration;

use anyhow::Result;

use crate::clock::monotonic_ns;
use crate::config::Config;
use crate::config::Format;
use crate::config::Who;
use crate::host::cgroup;
use crate::host::cgroup::Cgroups;
use crate::host::container_names::ContainerNames;
use crate::host::containers;
use crate::host::containers::Readers;
use crate::host::helpers::Helpers;
use crate::host::proc;
use crate::host::users::Users;
use crate::host::wanted::Verdict;
use crate::host::wanted::Wanted;
use crate::model::container::Container;
use crate::model::event::Connect;
use crate::model::numbers::NumberMap;
use crate::model::process::Ancestor;
use crate::model::process::Args;
use crate::model::process::Comm;
use crate::model::process::FIRST_ANCESTORS;
use crate::model::process::Image;
use crate::model::process::MAX_PARENT_EXE;
use crate::model::process::NEAREST_ANCESTORS;
use crate::model::process::ProcessFacts;
use crate::model::process::Source;
use crate::model::row::Row;
use crate::snapshot::holders::Holder;
use crate::snapshot::holders::Proc;

/// Bytes of facts that are kept of each kind, twice: those of some 4,000 processes with as many
/// arguments as are shown, of 30,000 with common ones.
const MAX_KEPT: usize = 16 << 20;
/// How often a process is looked at that runs one program after another.
const TRIES: usize = 3;
/// A user can make a line of processes of any length.
const MAX_LINE: usize = 256;

/// What was used last, by pids: half of it is forgotten when there is too much.
struct Recent<T> {
    young: NumberMap<u32, (T, usize)>,
    old: NumberMap<u32, (T, usize)>,
    /// Of the young.
    bytes: usize,
}

impl<T: Clone> Recent<T> {
    fn new() -> Self {
        Recent { young: NumberMap::default(), old: NumberMap::default(), bytes: 0 }
    }

    fn get(&mut self, pid: u32) -> Option<T> {
        if let Some((found, _)) = self.young.get(&pid) {
            return Some(found.clone());
        }
        let (found, bytes) = self.old.remove(&pid)?;
        self.put(pid, found.clone(), bytes);
        Some(found)
    }

    fn put(&mut self, pid: u32, value: T, bytes: usize) {
        if self.bytes + bytes > MAX_KEPT {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += bytes;
        let before = self.young.insert(pid, (value, bytes));
        self.bytes -= before.map_or(0, |(_, bytes)| bytes);
    }
}

/// What was read of a process at one time.
struct Read {
    /// When it was forked, in units of 10 ms.
    start: u64,
    uid: u32,
    vpid: Option<u32>,
    of_cgroup: OfCgroup,
    facts: ProcessFacts,
}

/// What its cgroup says of a process.
#[derive(Default)]
struct OfCgroup {
    path: Option<String>,
    unit: Option<Rc<str>>,
    container: Option<Container>,
    is_wanted: bool,
}

/// A process above one that holds a socket.
struct Above {
    pid: u32,
    start: u64,
    ppid: u32,
    name: Comm,
    image: Rc<Image>,
    /// Not later than it was read.
    read_at: u64,
    /// Once it is known; it does not keep it.
    parent: RefCell<Weak<Above>>,
}

/// A process whose parent is asked for.
#[derive(Clone, Copy)]
struct Child {
    pid: u32,
    start: u64,
    ppid: u32,
}

impl Child {
    fn is_as_before(self) -> bool {
        let stat = proc::stat_of(self.pid);
        stat.is_some_and(|stat| (stat.start(), stat.parent) == (self.start, self.ppid))
    }
}

/// What a row shows.
pub struct Known {
    connect: Connect,
    user: Option<Rc<str>>,
    read: Rc<Read>,
}

impl Known {
    pub fn row(&self) -> Row<'_> {
        let read = &self.read;
        Row {
            process: Some(Cow::Borrowed(&read.facts)),
            user: self.user.as_deref(),
            container: read.of_cgroup.container.as_ref(),
            cgroup: read.of_cgroup.path.as_deref(),
            unit: read.of_cgroup.unit.as_deref(),
            ..Row::bare(&self.connect)
        }
    }

    /// By its cgroup.
    pub fn is_wanted(&self) -> bool {
        self.read.of_cgroup.is_wanted
    }
}

/// Of all containers there are; it takes a millisecond, or a tenth of a second.
fn names_of<'a>(readers: Readers, all: impl Iterator<Item = (&'a str, u32)>) -> ContainerNames {
    let mut names = ContainerNames::new(readers);
    let since_ns = monotonic_ns();
    names.know(containers::watched(), all, since_ns);
    while !names.settles(since_ns, monotonic_ns()) {
        std::thread::sleep(Duration::from_millis(1));
    }
    names
}

pub struct Facts<'a> {
    proc: &'a Proc,
    who: Who,
    is_json: bool,
    users: Option<Users>,
    cgroups: Option<(PathBuf, Cgroups)>,
    containers: Option<ContainerNames>,
    wanted: Option<Wanted>,
    /// When the snapshot was begun.
    began: u64,
    read: Recent<Option<Rc<Read>>>,
    above: Recent<Rc<Above>>,
}

impl<'a> Facts<'a> {
    pub fn new(config: &Config, proc: &'a Proc, helpers: Helpers, began: u64) -> Result<Self> {
        let wanted = config.filter.by_cgroup().then(|| Wanted::new(&config.filter)).transpose()?;
        let cgroups = || Some((cgroup::mount()?, Cgroups::scan()));
        let reads_cgroups = config.who.container() || config.who.unit() || wanted.is_some();
        let cgroups = reads_cgroups.then(cgroups).flatten();
        let containers = helpers.containers.map(|readers| {
            names_of(readers, cgroups.iter().flat_map(|(_, cgroups)| cgroups.containers()))
        });
        Ok(Facts {
            proc,
            who: config.who,
            is_json: config.format == Format::Json,
            users: helpers.users,
            cgroups,
            containers,
            wanted,
            began,
            read: Recent::new(),
            above: Recent::new(),
        })
    }

    /// What is asked for by cgroup, if there is none of it.
    pub fn lacks(&self) -> Option<String> {
        let wanted = self.wanted.as_ref()?;
        let cgroups = self.cgroups.as_ref().map(|(_, cgroups)| cgroups);
        let names = Some(wanted.names()).filter(|names| !names.is_empty())?;
        (!wanted.is_there(cgroups, self.containers.as_ref())).then_some(names)
    }

    /// `None` if its process is gone, or it is not known whether it is the one that was seen.
    pub fn of(&mut self, holder: &Holder, netns: u32) -> Option<Known> {
        let pid = holder.pid;
        let read = match self.read.get(pid) {
            Some(read) => read,
            None => {
                let read = self.look_at(pid).map(Rc::new);
                let bytes = read.as_deref().map_or(0, Read::bytes) + size_of::<Read>();
                self.read.put(pid, read.clone(), bytes);
                read
            }
        }?;
        let is_it = read.start < self.began
            || self.proc.has(holder)
                && proc::stat_of(pid).is_some_and(|stat| stat.start() == read.start);
        let connect = Connect {
            pid,
            uid: Some(read.uid),
            vpid: read.vpid.filter(|_| self.who.vpid),
            netns: Some(netns),
            ..Connect::nowhere()
        };
        let user = self.users.as_mut().filter(|_| is_it).and_then(|users| users.name(read.uid));
        is_it.then_some(Known { connect, user, read })
    }

    fn look_at(&mut self, pid: u32) -> Option<Read> {
        let wants_image = self.who.exe || self.who.args || self.is_json;
        for attempt in 1.. {
            let before = proc::stat_of(pid)?;
            let ids = proc::ids_of(pid)?;
            let image = wants_image.then(|| proc::image_of(pid)).flatten();
            let of_cgroup = self.cgroup_of(pid).unwrap_or_default();
            let after = proc::stat_of(pid).filter(|after| after.start() == before.start())?;
            let is_one_program = after.runs_what(&before);
            let lacks_args = image.as_ref().is_some_and(lacks_args);
            if (!is_one_program || lacks_args) && attempt < TRIES {
                continue;
            }
            let mut image = image.filter(|_| is_one_program);
            if let Some(image) = image.as_mut().filter(|_| lacks_args) {
                image.args = None;
            }
            let child = Child { pid, start: after.start(), ppid: after.parent };
            let ancestors = self.who.parents.then(|| self.ancestors(child)).flatten();
            let facts = ProcessFacts {
                pid,
                // Its start is not known to the nanosecond, as it is in rows of events.
                start_ns: 0,
                ppid: after.parent,
                name: after.name,
                source: if image.is_some() { Source::Procfs } else { Source::None },
                image: image.map(Rc::new).unwrap_or_default(),
                ancestors,
            };
            let (start, uid, vpid) = (after.start(), ids.uid, ids.vpid);
            return Some(Read { start, uid, vpid, of_cgroup, facts });
        }
        None
    }

    fn cgroup_of(&self, pid: u32) -> Option<OfCgroup> {
        let who = self.who;
        if !who.cgroup_path && !who.container() && self.wanted.is_none() {
            return None;
        }
        let text = std::fs::read(format!("/proc/{pid}/cgroup")).ok()?;
        let path = cgroup::v2_path(&text);
        let at = self
            .cgroups
            .as_ref()
            .zip(path)
            .and_then(|((mount, cgroups), path)| Some((cgroups, cgroups.id_at(mount, path)?)));
        let of_v1 = || cgroup::parse_v1_container(&text);
        let container = who.container().then(|| {
            let of_v2 = at.and_then(|(cgroups, id)| cgroups.container(id));
            let of_v1 = || of_v1().map(|v1| (v1.container, v1.owner));
            let (container, owner) = of_v2.or_else(of_v1)?;
            Some(match &self.containers {
                Some(containers) => containers.named(container, owner),
                None => container,
            })
        });
        let names = self.containers.as_ref();
        let is_wanted = self.wanted.as_ref().is_some_and(|wanted| {
            match at.and_then(|(cgroups, id)| wanted.has(cgroups, names, id)) {
                Some(Verdict::Wanted) => true,
                Some(Verdict::Unwanted) => false,
                None | Some(Verdict::Outside) => {
                    of_v1().is_some_and(|found| wanted.has_of_v1(names, &found))
                }
            }
        });
        let unit = at.filter(|_| who.unit()).and_then(|(cgroups, id)| cgroups.unit(id));
        let path = path.filter(|_| who.cgroup_path);
        let path = path.map(|path| String::from_utf8_lossy(path).into_owned());
        Some(OfCgroup { path, unit, container: container.flatten(), is_wanted })
    }

    /// From the parent up; `None` if not even that is known.
    fn ancestors(&mut self, of: Child) -> Option<Vec<Ancestor>> {
        let (mut line, mut at) = (Vec::<Rc<Above>>::new(), of);
        while at.ppid != 0 && line.len() < MAX_LINE {
            let known = line.last().and_then(|child| child.parent.borrow().upgrade());
            let Some(above) = known.or_else(|| self.parent(at)) else { break };
            if let Some(child) = line.last() {
                *child.parent.borrow_mut() = Rc::downgrade(&above);
            }
            at = Child { pid: above.pid, start: above.start, ppid: above.ppid };
            line.push(above);
        }
        let is_whole = at.ppid == 0;
        (is_whole || !line.is_empty()).then(|| shown(&line, is_whole))
    }

    /// A process is given to another parent only if its own ends, and that is none that is
    /// younger: a child that is older than a look at this number is that one's.
    fn parent(&mut self, of: Child) -> Option<Rc<Above>> {
        let known = self.above.get(of.ppid).filter(|it| of.start < it.read_at);
        if let Some(above) = known
            && (above.start < of.start || above.start == of.start && of.is_as_before())
        {
            return Some(above);
        }
        let above = Rc::new(look_above(of.ppid, self.is_json)?);
        self.above.put(of.ppid, Rc::clone(&above), above.bytes());
        (above.start <= of.start && of.is_as_before()).then_some(above)
    }
}

/// A program has one argument at least, its name; but exec shows the file before it has put
/// them where they are read.
fn lacks_args(image: &Image) -> bool {
    image.exe.is_some() && image.args.as_ref().is_some_and(Args::is_empty)
}

fn look_above(pid: u32, wants_exe: bool) -> Option<Above> {
    let read_at = proc::ticks_now();
    let before = proc::stat_of(pid)?;
    let image = wants_exe.then(|| proc::image_of(pid)).flatten();
    let after = proc::stat_of(pid).filter(|after| after.start() == before.start())?;
    let image = image.filter(|_| after.runs_what(&before)).map(|image| {
        let end = |exe: Box<[u8]>| exe[exe.len().saturating_sub(MAX_PARENT_EXE + 1)..].into();
        Image { exe: image.exe.map(end), args: None::<Args>, ..image }
    });
    Some(Above {
        pid,
        start: after.start(),
        ppid: after.parent,
        name: after.name,
        image: image.map(Rc::new).unwrap_or_default(),
        read_at,
        parent: RefCell::default(),
    })
}

/// As many as rows show; of a line whose end is not known the nearest.
fn shown(line: &[Rc<Above>], is_whole: bool) -> Vec<Ancestor> {
    let known = |above: &Rc<Above>| Ancestor::Known {
        pid: above.pid,
        start_ns: 0,
        ppid: Some(above.ppid),
        name: above.name,
        image: Rc::clone(&above.image),
    };
    if line.len() <= NEAREST_ANCESTORS + FIRST_ANCESTORS {
        return line.iter().map(known).collect();
    }
    let (nearest, rest) = line.split_at(NEAREST_ANCESTORS);
    let mut shown: Vec<_> = nearest.iter().map(known).collect();
    if is_whole {
        let (left_out, first) = rest.split_at(rest.len() - FIRST_ANCESTORS);
        shown.push(Ancestor::LeftOut(Some(left_out.len() as u32)));
        shown.extend(first.iter().map(known));
    }
    shown
}

fn bytes_of(image: &Image) -> usize {
    let exe = image.exe.as_ref().map_or(0, |exe| exe.len());
    size_of::<Image>() + exe + image.args.as_ref().map_or(0, Args::len)
}

impl Read {
    /// With what holds them, about.
    fn bytes(&self) -> usize {
        let ancestors = self.facts.ancestors.as_ref().map_or(0, Vec::len);
        let of_cgroup = &self.of_cgroup;
        let container = of_cgroup.container.as_ref().map_or(0, |container| container.id.len());
        2 * size_of::<Self>()
            + bytes_of(&self.facts.image)
            + ancestors * size_of::<Ancestor>()
            + container
            + of_cgroup.path.as_ref().map_or(0, String::len)
            + of_cgroup.unit.as_ref().map_or(0, |unit| unit.len())
    }
}

impl Above {
    fn bytes(&self) -> usize {
        2 * size_of::<Self>() + bytes_of(&self.image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_a_bound_and_is_what_was_used_last() {
        const EACH: usize = MAX_KEPT / 100;
        let mut recent = Recent::new();
        for pid in 0..1_000 {
            recent.put(pid, pid, EACH);
            assert_eq!(recent.get(0), Some(0), "it is used all the time");
        }
        assert!(recent.young.len() + recent.old.len() <= 201);
        assert_eq!((recent.get(999), recent.get(500)), (Some(999), None));
        recent.put(999, 1, EACH);
        assert_eq!(recent.get(999), Some(1));
        assert!(recent.bytes <= MAX_KEPT);
    }

    #[test]
    fn a_program_that_is_being_started_has_no_arguments_yet() {
        let (exe, none, some) = (Some(b"/x"[..].into()), Args::new(b""), Args::new(b"\0"));
        let image = |args| Image { exe: exe.clone(), args, ..Image::default() };
        assert!(lacks_args(&image(Some(none.clone()))));
        assert!(!lacks_args(&image(Some(some))) && !lacks_args(&image(None)));
        let of_kernel = Image { args: Some(none), ..Image::default() };
        assert!(!lacks_args(&of_kernel));
    }

    #[test]
    fn of_a_long_line_the_nearest_and_the_first_are_shown() {
        let line = |length: u32| -> Vec<_> {
            let above = |pid: u32| Above {
                pid,
                start: 1,
                ppid: pid + 1,
                name: Comm::default(),
                image: Rc::default(),
                read_at: 2,
                parent: RefCell::default(),
            };
            (1..=length).map(|pid| Rc::new(above(pid))).collect()
        };
        let pids = |length, is_whole| -> Vec<i64> {
            let pid = |ancestor: &Ancestor| match ancestor {
                Ancestor::Known { pid, .. } => i64::from(*pid),
                Ancestor::LeftOut(n) => -i64::from(n.unwrap_or(0)),
            };
            shown(&line(length), is_whole).iter().map(pid).collect()
        };
        let to = |last: i64| (1..=last).collect::<Vec<_>>();
        assert_eq!(pids(36, true), to(36));
        assert_eq!(pids(40, true), [to(32), vec![-4, 37, 38, 39, 40]].concat());
        assert_eq!(pids(40, false), to(32), "nobody knows which are the first");
    }
}
