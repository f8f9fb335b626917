// SPDX-License-Identifier: Apache-2.0
//! Finds the cgroup v2 mount, cgroup ids and names, and namespace inodes. Reads
//! /proc and the file system only.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Once;

use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::fstat;
use rustix::fs::openat;

use crate::error::StartError;
use crate::error::text_of;
use crate::error::warn;
use crate::host::cgroup_scan;
use crate::host::cgroup_scan::Unread;
use crate::model::container;
use crate::model::container::Container;
use crate::model::event::CgroupEvent;

/// linux/magic.h
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
/// The first node that kernfs makes for a hierarchy.
const ROOT_INODE: u64 = 1;
/// linux/magic.h
const NSFS_MAGIC: i64 = 0x6e73_6673;
/// PID_MAX_LIMIT (include/linux/threads.h): no pid is above. The inodes of namespaces are,
/// also that of the initial network namespace, which 6.18 moved below PROC_DYNAMIC_FIRST.
const MAX_PID: u64 = 1 << 22;
/// Bytes of a cgroup's path that are kept, more than a row shows of it. Without an end, those
/// of 2,000 cgroups in one another took 256 MB.
const MAX_PATH: usize = 4_200;

fn fs_magic(path: &Path) -> io::Result<i64> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut fs = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` is NUL-terminated and `fs` has room for a statfs.
    if unsafe { libc::statfs(path.as_ptr(), fs.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statfs() succeeded, so it filled `fs`.
    Ok(unsafe { fs.assume_init() }.f_type)
}

/// Where the cgroup v2 hierarchy is mounted, if it is. `ip netns exec` mounts a
/// fresh /sys without it; then it is reached through init's mounts.
pub fn mount() -> Option<PathBuf> {
    let find = |pid: &str, root: &str| {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
        let mut found: Vec<_> = parse_mountinfo(&mounts)
            .map(|path| PathBuf::from(format!("{root}{}", path.display())))
            .filter(|path| matches!(fs_magic(path), Ok(CGROUP2_SUPER_MAGIC)))
            .collect();
        // A part of it may be mounted elsewhere, before or after the whole.
        let whole = found.iter().position(|path| is_root(path)).unwrap_or(0);
        (whole < found.len()).then(|| found.swap_remove(whole))
    };
    find("self", "").or_else(|| find("1", "/proc/1/root"))
}

/// Whether a mount shows the whole hierarchy: not so in a cgroup namespace.
pub fn is_root(mount: &Path) -> bool {
    fs::metadata(mount).is_ok_and(|m| m.ino() == ROOT_INODE)
}

/// Whether processes are in hierarchies of version 1 as well.
pub fn is_hybrid() -> bool {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    text.lines().any(|line| !line.starts_with("0::"))
}

/// Mount points of type cgroup2; the fields are described in proc(5).
fn parse_mountinfo(text: &str) -> impl Iterator<Item = PathBuf> {
    text.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?;
        let is_v2 = right.split(' ').next() == Some("cgroup2");
        is_v2.then(|| PathBuf::from(point.replace("\\040", " ")))
    })
}

/// A cgroup v2 directory by what the kernel knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The inode of its kernfs node, on 64-bit kernels.
    pub id: u64,
    /// Below the root, which is 0; `None` where only a part of the hierarchy is mounted.
    pub level: Option<u32>,
}

/// The id alone.
pub fn id(path: &Path) -> Result<u64, StartError> {
    place(path).map(|place| place.id)
}

/// A path that is none as given is looked up below the mount, where
/// /proc/PID/cgroup has it from.
pub fn place(path: &Path) -> Result<Place, StartError> {
    let bad = |why: String| StartError::BadCgroup(path.display().to_string(), why);
    let is_v2 = |path: &Path| matches!(fs_magic(path), Ok(CGROUP2_SUPER_MAGIC));
    let Some(mount) = mount() else {
        return Err(bad("no cgroup v2 is mounted here; see mount -t cgroup2".into()));
    };
    let below = mount.join(path.strip_prefix("/").unwrap_or(path));
    let found = [path, &below].into_iter().find(|path| is_v2(path));
    let Some(found) = found else {
        return Err(match fs_magic(path) {
            Ok(_) => bad(format!("not a cgroup v2 directory; those are below {}", mount.display())),
            Err(e) => bad(format!("{}, nor below {}", text_of(&e), mount.display())),
        });
    };
    let meta = fs::metadata(found).map_err(|e| bad(text_of(&e)))?;
    match meta.is_dir() {
        true => Ok(Place { id: meta.ino(), level: level(found, &meta) }),
        false => Err(bad("not a directory; name the cgroup's directory".into())),
    }
}

/// Counted up to the root, so that neither a link nor another mount misleads; not by a path,
/// which would end at PATH_MAX.
fn level(path: &Path, meta: &fs::Metadata) -> Option<u32> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, path, flags, Mode::empty()).ok()?;
    let (mut inode, mut level) = (meta.ino(), 0);
    while inode != ROOT_INODE {
        at = openat(&at, c"..", flags, Mode::empty()).ok()?;
        let above = fstat(&at).ok().filter(|above| above.st_dev == meta.dev())?;
        inode = above.st_ino;
        level += 1;
    }
    Some(level)
}

/// A directory with a wanted name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub place: Place,
    pub pattern: usize,
    pub by_root: bool,
}

/// Of those that cannot be read it is not known whether they still are there, so whoever
/// makes and removes some while records are lost would fill the memory with them.
const MAX_HIDDEN: usize = 1 << 16;

/// The cgroup v2 directories that exist, by id; kept up to date by events.
#[derive(Debug, Default)]
pub struct Cgroups {
    nodes: HashMap<u64, Node>,
}

#[derive(Debug)]
struct Node {
    parent: u64,
    name: Box<[u8]>,
    /// Who gave it its name; 0: nobody but root can have.
    owner: u32,
    /// One for all connections from there: whoever may make cgroups can make the path long,
    /// and have many connections followed.
    path: OnceCell<Rc<str>>,
}

impl Node {
    fn new(parent: u64, name: Box<[u8]>, owner: u32) -> Self {
        Node { parent, name, owner, path: OnceCell::new() }
    }
}

impl Cgroups {
    /// Reads them all from the mount.
    pub fn scan() -> Self {
        mount().and_then(|mount| Cgroups::read(&mount)).map_or_else(Cgroups::default, |read| read.0)
    }

    /// Reads them all anew: what is gone goes. What cannot be read stays as it was: it may
    /// have been read when this program had more rights, or an event have reported it.
    pub fn rescan(&mut self) {
        if let Some((found, unread)) = mount().and_then(|mount| Cgroups::read(&mount)) {
            self.renew(found, &unread);
        }
    }

    fn read(mount: &Path) -> Option<(Self, Unread)> {
        static WARNED: Once = Once::new();
        let mut nodes = HashMap::new();
        nodes.insert(fs::metadata(mount).ok()?.ino(), Node::new(0, Box::default(), 0));
        let unread = cgroup_scan::scan(mount, |dir| {
            let name = dir.name.to_bytes().into();
            nodes.insert(dir.id, Node::new(dir.parent, name, dir.owner));
        });
        let warning = match &unread {
            Ok(unread) => unread.words(),
            Err(why) => Some(format!(
                "tcpconnect: cgroups cannot be read ({}); those that exist already have no name \
                 here, and no container",
                text_of(&io::Error::from(*why))
            )),
        };
        if let Some(warning) = warning {
            WARNED.call_once(|| warn(&warning));
        }
        Some((Cgroups { nodes }, unread.ok()?))
    }

    fn renew(&mut self, found: Cgroups, unread: &Unread) {
        let mut old = std::mem::replace(&mut self.nodes, found.nodes);
        // Whether it is below what could not be read.
        let mut is_hidden = HashMap::new();
        for &id in old.keys() {
            let (mut line, mut at) = (Vec::new(), id);
            let verdict = loop {
                if let Some(&verdict) = is_hidden.get(&at) {
                    break verdict;
                }
                if self.nodes.contains_key(&at) {
                    break unread.ids.contains(&at);
                }
                line.push(at);
                match old.get(&at) {
                    Some(node) => at = node.parent,
                    None => break false,
                }
            };
            is_hidden.extend(line.into_iter().map(|id| (id, verdict)));
        }
        let mut room = MAX_HIDDEN;
        old.retain(|id, _| match self.nodes.contains_key(id) {
            // A number is not given twice, nor a name changed; and who made it is best known
            // from when it was made.
            true => true,
            false if is_hidden[id] && room > 0 => {
                room -= 1;
                true
            }
            false => false,
        });
        self.nodes.extend(old);
    }

    pub fn apply(&mut self, event: CgroupEvent) {
        let CgroupEvent { id, parent_id, owner, .. } = event;
        match event.name {
            Some(name) => self.nodes.insert(id, Node::new(parent_id, name, owner)),
            None => self.nodes.remove(&id),
        };
    }

    /// From the directory up to the root, which is left out; `None` if one is not known.
    fn line(&self, id: u64) -> Option<Vec<&Node>> {
        let mut line = Vec::new();
        let mut at = self.nodes.get(&id)?;
        while at.parent != 0 {
            line.push(at);
            at = self.nodes.get(&at.parent)?;
        }
        Some(line)
    }

    /// The ids from this one up to the root; `None` if one is not known.
    pub fn ids_up_from(&self, id: u64) -> Option<Vec<u64>> {
        let (mut ids, mut at) = (vec![id], self.nodes.get(&id)?);
        while at.parent != 0 {
            ids.push(at.parent);
            at = self.nodes.get(&at.parent)?;
        }
        Some(ids)
    }

    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.nodes.keys().copied()
    }

    /// The name of a directory, and who gave it.
    pub fn name(&self, id: u64) -> Option<(&[u8], u32)> {
        self.nodes.get(&id).map(|node| (&*node.name, node.owner))
    }

    /// The systemd unit that a process there is part of.
    pub fn unit(&self, id: u64) -> Option<Rc<str>> {
        let line = self.line(id)?;
        let lossy = |name| String::from_utf8_lossy(name);
        let names: Vec<_> = line.iter().rev().map(|n| (lossy(&n.name), n.owner)).collect();
        container::unit_of(names.iter().map(|(name, owner)| (&**name, *owner))).map(Rc::from)
    }

    /// The path below the mount, `/` for the root.
    pub fn path(&self, id: u64) -> Option<Rc<str>> {
        let node = self.nodes.get(&id)?;
        if let Some(path) = node.path.get() {
            return Some(Rc::clone(path));
        }
        let mut path = String::new();
        for above in self.line(id)?.iter().rev() {
            if path.len() > MAX_PATH {
                break;
            }
            path.push('/');
            path.push_str(&String::from_utf8_lossy(&above.name));
        }
        if path.is_empty() {
            path.push('/');
        }
        Some(Rc::clone(node.path.get_or_init(|| path.into())))
    }

    /// Of the directory at this path, as /proc/PID/cgroup has it, below the mount.
    pub fn id_at(&self, mount: &Path, path: &[u8]) -> Option<u64> {
        let path = Path::new(std::ffi::OsStr::from_bytes(path)).strip_prefix("/").ok()?;
        // One outside the cgroup namespace has `..` in it.
        let is_below = path.components().all(|part| matches!(part, Component::Normal(_)));
        let meta = fs::metadata(is_below.then(|| mount.join(path))?).ok()?;
        Some(meta.ino()).filter(|id| self.nodes.contains_key(id))
    }

    /// And the user by whose word it is that, if it is in no other.
    pub fn container(&self, id: u64) -> Option<(Container, Option<u32>)> {
        let line = self.line(id)?;
        let lossy = |name| String::from_utf8_lossy(name);
        let names: Vec<_> = line.iter().map(|node| (lossy(&node.name), node.owner)).collect();
        container::of(names.iter().map(|(name, owner)| (&**name, *owner)))
    }

    /// Of all directories, each with the user who made it.
    pub fn containers(&self) -> impl Iterator<Item = (&str, u32)> {
        let nodes = self.nodes.values();
        nodes.filter_map(|node| Some((container::id_of_directory(&node.name)?, node.owner)))
    }

    /// The directories with a wanted name, with the number of the first pattern that it has.
    pub fn matching(&self, patterns: &[container::Pattern]) -> Vec<Found> {
        let found = |(&id, node): (&u64, &Node)| {
            let pattern = patterns.iter().position(|p| p.matches(&node.name))?;
            let place = Place { id, level: self.level(id) };
            Some(Found { place, pattern, by_root: node.owner == 0 })
        };
        self.nodes.iter().filter_map(found).collect()
    }

    fn level(&self, id: u64) -> Option<u32> {
        let (mut at, mut level) = (id, 0);
        while at != ROOT_INODE {
            at = self.nodes.get(&at)?.parent;
            level += 1;
        }
        Some(level)
    }
}

/// A container of version 1, as a path has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V1Container {
    /// The innermost.
    pub container: Container,
    /// By whose word: of one in another, whose root calls it as it likes, nobody's.
    pub owner: Option<u32>,
    /// The id of the outermost.
    pub outermost: String,
}

/// The container that a process is in, from /proc, while the process lives: for hosts whose
/// containers are in hierarchies of version 1.
pub fn v1_container(proc_pid: u32) -> Option<V1Container> {
    parse_v1_container(&fs::read(format!("/proc/{proc_pid}/cgroup")).ok()?)
}

/// Whether a process is in a container, by the paths that /proc has, of either version.
pub fn is_in_container(proc_pid: u32) -> bool {
    let text = fs::read(format!("/proc/{proc_pid}/cgroup")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.any(|path| container::id_in(path).is_some())
}

/// The path of its cgroup of version 2 in what /proc/PID/cgroup says.
pub fn v2_path(text: &[u8]) -> Option<&[u8]> {
    text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"0::"))
}

/// Of hierarchies without a controller users have parts of their own (systemd's), of
/// others they have none. Whoever makes a directory chooses its bytes: one that is no text hides
/// none that it is in.
pub fn parse_v1_container(text: &[u8]) -> Option<V1Container> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next().filter(|names| !names.is_empty())?;
        let claimed = controllers.starts_with("name=");
        let ids: Vec<_> = container::ids_in(fields.next()?).collect();
        let container = Container::new(*ids.last()?, claimed);
        let owner = (!claimed && ids.len() == 1).then_some(0);
        Some(V1Container { container, owner, outermost: ids[0].to_owned() })
    });
    lines.min_by_key(|found| found.container.claimed)
}

/// The inode of this program's pid namespace, unless it is the initial one.
pub fn own_pidns() -> Option<u32> {
    /// PROC_PID_INIT_INO (include/linux/proc_ns.h)
    const INITIAL: u64 = 0xefff_fffc;
    let inode = fs::metadata("/proc/self/ns/pid").ok()?.ino();
    u32::try_from(inode).ok().filter(|_| inode != INITIAL)
}

/// The inode of a network namespace given by pid, by path, by its name under
/// /run/netns, or by the inode itself.
pub fn netns(text: &str) -> Result<u32, StartError> {
    let bad = |why: String| StartError::BadNetns(text.to_owned(), why);
    let path = match text.parse::<u64>() {
        Ok(inode) if inode > MAX_PID => {
            return u32::try_from(inode).map_err(|_| bad("not a namespace inode".into()));
        }
        Ok(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        Err(_) if text.contains('/') => PathBuf::from(text),
        Err(_) => Path::new("/run/netns").join(text),
    };
    let meta =
        fs::metadata(&path).map_err(|e| bad(format!("{}: {}", path.display(), text_of(&e))))?;
    if !matches!(fs_magic(&path), Ok(NSFS_MAGIC)) {
        return Err(bad(format!("{} is not a namespace", path.display())));
    }
    u32::try_from(meta.ino()).map_err(|_| bad("not a namespace inode".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_v2_mount_of_a_hybrid_host() {
        let text = "30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro\n\
                    31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
                    32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let found: Vec<_> = parse_mountinfo(text).collect();
        assert_eq!(found, [PathBuf::from("/sys/fs/cgroup/unified")]);
    }

    #[test]
    fn a_container_of_version_1_is_a_claim_where_users_make_cgroups() {
        let (id, other) = ("a1".repeat(32), "b2".repeat(32));
        let text = format!(
            "12:name=systemd:/user.slice/docker-{other}.scope\n3:cpu,cpuacct:/docker/{id}\n0::/\n"
        );
        let found = |id: &str, claimed, owner| {
            let (container, outermost) = (Container::new(id, claimed), id.to_owned());
            Some(V1Container { container, owner, outermost })
        };
        assert_eq!(parse_v1_container(text.as_bytes()), found(&id, false, Some(0)));
        assert_eq!(
            parse_v1_container(text.lines().next().unwrap().as_bytes()),
            found(&other, true, None)
        );
        assert_eq!(parse_v1_container(b"3:cpu:/\n0::/\n"), None);
        let below = [format!("3:cpu:/docker/{id}/").as_bytes(), b"\xff\n"].concat();
        assert_eq!(parse_v1_container(&below), found(&id, false, Some(0)));
        let nested = format!("3:cpu:/docker/{id}/docker/{other}\n");
        let nested = parse_v1_container(nested.as_bytes()).unwrap();
        assert_eq!((&*nested.container.id, nested.owner), (&*other, None));
        assert_eq!(nested.outermost, id);
    }

    #[test]
    fn a_path_is_put_together_from_its_directories() {
        let mut cgroups = Cgroups::default();
        cgroups.nodes.insert(1, Node::new(0, Box::default(), 0));
        let new = |id, parent_id, name: &str| CgroupEvent {
            ts_ns: 0,
            id,
            parent_id,
            name: Some(name.as_bytes().into()),
            owner: if name.ends_with("slice") { 0 } else { 1000 },
        };
        cgroups.apply(new(7, 1, "system.slice"));
        cgroups.apply(new(9, 7, "a.service"));
        assert_eq!(cgroups.path(1).as_deref(), Some("/"));
        assert_eq!(cgroups.path(9).as_deref(), Some("/system.slice/a.service"));
        assert!(Rc::ptr_eq(&cgroups.path(9).unwrap(), &cgroups.path(9).unwrap()));
        let found = cgroups.matching(&[container::Pattern::whole("a.service")]);
        let place = Place { id: 9, level: Some(2) };
        assert_eq!(found, [Found { place, pattern: 0, by_root: false }]);
        cgroups.apply(new(10, 8, "lost"));
        assert_eq!(cgroups.path(10), None, "what is above it is not known");
        cgroups.apply(new(11, 9, &format!("libpod-{}.scope", "a1".repeat(32))));
        let claimed = Container::new("a1".repeat(32), true);
        assert_eq!(cgroups.container(11), Some((claimed, Some(1000))));
        cgroups.apply(CgroupEvent { ts_ns: 0, id: 9, parent_id: 7, name: None, owner: 0 });
        assert_eq!(cgroups.path(9), None);
    }

    #[test]
    fn of_cgroups_in_one_another_no_more_is_kept_than_rows_show() {
        let mut cgroups = Cgroups::default();
        cgroups.nodes.insert(1, Node::new(0, Box::default(), 0));
        for id in 2..1_000 {
            cgroups.nodes.insert(id, Node::new(id - 1, [b'a'; 120].into(), 1000));
        }
        let kept: usize = (1..1_000).map(|id| cgroups.path(id).unwrap().len()).sum();
        assert!(kept < 1_000 * (MAX_PATH + 256), "{kept}");
        let start = cgroups.path(30).unwrap();
        assert!(cgroups.path(999).unwrap().starts_with(&*start));
    }

    #[test]
    fn what_cannot_be_read_any_more_stays_known() {
        let known = |nodes: &[(u64, u64)]| {
            let node = |&(id, parent): &(u64, u64)| {
                (id, Node::new(parent, format!("n{id}").into_bytes().into(), 0))
            };
            Cgroups { nodes: nodes.iter().map(node).collect() }
        };
        let mut cgroups = known(&[(1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 2), (7, 6), (8, 1)]);
        let unread = Unread { ids: [3, 8].into(), ..Unread::default() };
        cgroups.renew(known(&[(1, 0), (2, 1), (3, 2), (9, 2)]), &unread);
        let mut ids: Vec<_> = cgroups.nodes.keys().copied().collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 3, 4, 5, 9], "4 and 5 are below 3; 6, 7 and 8 are gone");
        assert_eq!(cgroups.path(5).as_deref(), Some("/n2/n3/n4/n5"));
    }

    #[test]
    fn an_inode_number_is_told_from_a_pid() {
        assert_eq!(netns("4026531840").unwrap(), 4_026_531_840);
        // The initial one, from 6.18 on.
        assert_eq!(netns("4026531833").unwrap(), 4_026_531_833);
        assert_eq!(netns("4194305").unwrap(), 4_194_305);
        assert!(netns("4194304").unwrap_err().to_string().contains("/proc/4194304/ns/net"));
    }
}
