// SPDX-License-Identifier: Apache-2.0
//! Reads what runtimes have written down of a container (container_files.rs), in threads beside
//! the loop: to open a file takes as long as whoever mounted its file system likes. Asks no daemon.

use std::collections::VecDeque;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use rustix::fs::CWD;
use rustix::fs::Dir;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::openat;
use rustix::io::Errno;

use super::cgroup;
use super::container_files;
use super::container_files::Said;
pub use super::container_files::Started;
pub use super::container_files::started;
use super::privilege;
use super::proc;
use super::rights;
use crate::model::container::NameSource;
use crate::model::container::Names;
use crate::model::container::Runtime;
use crate::model::process::Image;

/// Of a file: docker's has 5 KB, a bundle's 20, that of a storage with 1,000 containers 500.
const MAX_BYTES: u64 = 1 << 20;
/// Threads for what users have written down: as many can be held up at once.
const FOR_USERS: usize = 4;
/// Questions that wait, of root and of all users.
const MAX_WAITING: usize = 4_096;
/// Of one user.
const MAX_OF_USER: usize = 64;
/// How much longer than it worked a thread for users rests.
const REST: u32 = 9;

/// Where containerd, docker's and Kubernetes', keeps bundles by default.
const BUNDLES: [&str; 3] = ["moby", "k8s.io", "default"];
const CONTAINERD: &str = "/run/containerd/io.containerd.runtime.v2.task";
const K3S: &str = "/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io";
const DOCKER: &str = "/var/lib/docker/containers";
const STORAGE: &str = "/var/lib/containers/storage/overlay-containers";
const LOGS: &str = "/var/log/containers";

/// Where each runtime writes down what its containers are called, by default; docker's container
/// has its names in docker's files, and its bundle in containerd's.
const RUNTIMES: [(&str, &str); 5] = [
    ("docker", DOCKER),
    ("containerd", CONTAINERD),
    ("k3s", K3S),
    ("podman or CRI-O", STORAGE),
    ("Kubernetes", LOGS),
];

/// Whether this host tells in which container a process is.
pub fn are_told() -> bool {
    cgroup::mount().is_some() && privilege::may_probe()
}

/// The runtimes that have written down something here, and whether it may be read.
pub fn runtimes() -> Vec<(&'static str, bool)> {
    let found = RUNTIMES.iter().filter_map(|(name, folder)| match fs::read_dir(folder) {
        Ok(_) => Some((*name, true)),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Some((*name, false)),
        Err(_) => None,
    });
    found.collect()
}

/// A container whose names are wanted.
#[derive(Clone, Debug)]
pub struct Question {
    pub id: Box<str>,
    /// Whose word it is: the files must be this user's.
    pub uid: u32,
    pub bundle: Option<PathBuf>,
    /// The file that had the names, and how it was: if it still is so, the names are known.
    pub known: Option<Found>,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub id: Box<str>,
    pub uid: u32,
    pub said: Outcome,
}

#[derive(Clone, Debug)]
pub enum Outcome {
    /// And where, if they may change there.
    Names(Names, Option<Found>),
    Unchanged,
    Nothing(Why),
}

/// Why a container has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No file of its is there.
    Absent,
    /// There is one, of another format, or too large.
    Misread,
    /// There is one, which this program may not read.
    Denied,
}

/// A file by what changes when it is written anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    dir: PathBuf,
    name: &'static str,
    version: (u64, u64, i64, i64),
}

/// What waits, and which users are being served.
struct Waiting {
    questions: VecDeque<Question>,
    served: [Option<u32>; FOR_USERS],
}

struct Shared {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

/// The threads that read.
pub struct Readers {
    shared: Arc<Shared>,
    answers: Receiver<Answer>,
}

impl Readers {
    /// One thread for root and some for users.
    pub fn start() -> io::Result<Self> {
        let waiting = Waiting { questions: VecDeque::new(), served: [None; FOR_USERS] };
        let shared = Arc::new(Shared { waiting: Mutex::new(waiting), more: Condvar::new() });
        let (sender, answers) = channel();
        for place in std::iter::once(None).chain((0..FOR_USERS).map(Some)) {
            let (shared, sender) = (Arc::clone(&shared), sender.clone());
            let serve = move || {
                // What root's containers are called is waited for; users are not to take a CPU.
                // SAFETY: a plain system call, about this thread.
                unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, place.map_or(-20, |_| 19)) };
                rights::of_a_reader();
                serve(&shared, place, &sender);
            };
            thread::Builder::new().stack_size(256 << 10).spawn(serve)?;
        }
        Ok(Readers { shared, answers })
    }

    /// False if too many wait: of root, of this user, or of all users.
    pub fn ask(&self, question: Question) -> bool {
        let mut waiting = self.shared.lock();
        let count = |is_one: &dyn Fn(u32) -> bool| {
            waiting.questions.iter().filter(|other| is_one(other.uid)).count()
        };
        let uid = question.uid;
        let has_room = match uid {
            0 => count(&|other| other == 0) < MAX_WAITING,
            _ => {
                count(&|other| other == uid) < MAX_OF_USER
                    && count(&|other| other != 0) < MAX_WAITING
            }
        };
        if has_room {
            waiting.questions.push_back(question);
            self.shared.more.notify_all();
        }
        has_room
    }

    pub fn answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next question for root's thread, or for the one of users at this place: a user whose
    /// files hold up one thread holds up no other.
    fn next(&self, place: Option<usize>) -> Question {
        let mut waiting = self.lock();
        if let Some(place) = place {
            waiting.served[place] = None;
        }
        loop {
            let served = waiting.served;
            let is_ours = |question: &Question| match place {
                None => question.uid == 0,
                Some(_) => question.uid != 0 && !served.contains(&Some(question.uid)),
            };
            if let Some(at) = waiting.questions.iter().position(is_ours)
                && let Some(question) = waiting.questions.remove(at)
            {
                if let Some(place) = place {
                    waiting.served[place] = Some(question.uid);
                }
                return question;
            }
            waiting = self.more.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn serve(shared: &Shared, place: Option<usize>, answers: &Sender<Answer>) {
    loop {
        let question = shared.next(place);
        let began = Instant::now();
        let said = outcome(&question);
        if question.uid != 0 {
            // A file of a megabyte takes 20 ms, and to have it read again costs its owner 1 ms.
            thread::sleep(began.elapsed() * REST);
        }
        let answer = Answer { id: question.id, uid: question.uid, said };
        if answers.send(answer).is_err() {
            return;
        }
        // Another one may wait for this user's turn.
        shared.more.notify_all();
    }
}

fn outcome(question: &Question) -> Outcome {
    let mut search = Search { question, why: Why::Absent };
    if let Some(known) = &question.known
        && search.find(&known.dir, known.name).is_some_and(|(_, found)| found == *known)
    {
        return Outcome::Unchanged;
    }
    match search.names() {
        Some((names, found)) => Outcome::Names(names, found),
        None => Outcome::Nothing(search.why),
    }
}

/// Of its arguments alone.
pub fn of_conmon(name: &str) -> Names {
    Names {
        name: Some(name.into()),
        runtime: Some(Runtime::Podman),
        source: NameSource::Conmon,
        ..Names::default()
    }
}

/// A regular file that belongs to whoever it is asked of.
struct Opened {
    found: Found,
    bytes: Vec<u8>,
}

struct Search<'a> {
    question: &'a Question,
    why: Why,
}

type Named = (Names, Option<Found>);

impl Search<'_> {
    fn names(&mut self) -> Option<Named> {
        let id = &*self.question.id;
        let given = self.question.bundle.as_deref().and_then(|bundle| self.of_bundle(bundle));
        if given.is_some() || self.question.uid != 0 {
            return given;
        }
        let bundles = BUNDLES.map(|namespace| Path::new(CONTAINERD).join(namespace));
        let mut bundles = bundles.into_iter().chain([K3S.into()]).map(|dir| dir.join(id));
        bundles
            .find_map(|bundle| self.of_bundle(&bundle))
            .or_else(|| self.of_docker(&Path::new(DOCKER).join(id)))
            .or_else(|| self.of_bundle(&Path::new(STORAGE).join(id).join("userdata")))
            .or_else(|| self.of_logs())
    }

    /// The id is in the path of each runtime's bundle: arguments lead to no other file.
    fn of_bundle(&mut self, bundle: &Path) -> Option<Named> {
        let id = &*self.question.id;
        if !container_files::is_plain(bundle) || !bundle.iter().any(|part| part == id) {
            return None;
        }
        let opened = self.open(bundle, "config.json");
        let said = opened.and_then(|opened| {
            let said = container_files::of_bundle(&opened.bytes, id);
            self.misread_unless(said.is_some());
            said
        });
        match said {
            Some(Said::Docker(folder)) => self.of_docker(&folder),
            Some(Said::Names(names)) if names.shown().is_some() => Some((names, None)),
            // Of podman, or gone: what the storage has.
            _ => self.of_storage(bundle),
        }
    }

    fn of_docker(&mut self, dir: &Path) -> Option<Named> {
        let opened = self.open(dir, "config.v2.json")?;
        let names = container_files::of_docker(&opened.bytes, &self.question.id);
        self.misread_unless(names.is_some());
        Some((names?, Some(opened.found)))
    }

    /// STORAGE/ID/userdata is a bundle there; those of --rm are in the second file.
    fn of_storage(&mut self, bundle: &Path) -> Option<Named> {
        let storage = bundle.parent()?.parent().filter(|_| bundle.ends_with("userdata"))?;
        ["containers.json", "volatile-containers.json"].into_iter().find_map(|name| {
            let opened = self.open(storage, name)?;
            let names = container_files::of_storage(&opened.bytes, &self.question.id);
            self.misread_unless(names.is_some());
            Some((names??, Some(opened.found)))
        })
    }

    fn of_logs(&self) -> Option<Named> {
        let dir = openat(CWD, LOGS, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        Dir::read_from(&dir).ok()?.filter_map(Result::ok).find_map(|entry| {
            let (id, names) = container_files::of_log(entry.file_name().to_str().ok()?)?;
            (*id == *self.question.id).then_some((names, None))
        })
    }

    fn misread_unless(&mut self, is_understood: bool) {
        if !is_understood {
            self.why = Why::Misread;
        }
    }

    /// Whoever leads to a folder that is not called after the container leads nowhere, and no link
    /// does from there on.
    fn find(&mut self, dir: &Path, name: &'static str) -> Option<(File, Found)> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let own = dir.ancestors().find(|above| above.ends_with(&*self.question.id));
        let above = own.map_or(Some(dir), Path::parent)?;
        let mut at = self.unless_denied(openat(CWD, above, flags, Mode::empty()))?;
        for part in dir.strip_prefix(above).ok()? {
            let opened = openat(&at, part, flags | OFlags::NOFOLLOW, Mode::empty());
            at = self.unless_denied(opened)?;
        }
        // Neither a link's target is read, nor is a FIFO waited for.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = self.unless_denied(openat(&at, name, flags, Mode::empty()))?;
        let file = File::from(file);
        let meta = file.metadata().ok()?;
        // Nobody speaks for another user.
        let may_say = meta.is_file() && meta.uid() == self.question.uid;
        let version = (meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec());
        may_say.then(|| (file, Found { dir: dir.into(), name, version }))
    }

    fn unless_denied(&mut self, opened: rustix::io::Result<OwnedFd>) -> Option<OwnedFd> {
        if matches!(opened, Err(Errno::ACCESS | Errno::PERM)) {
            self.why = Why::Denied;
        }
        opened.ok()
    }

    fn open(&mut self, dir: &Path, name: &'static str) -> Option<Opened> {
        let (file, found) = self.find(dir, name)?;
        let bytes = read(file);
        self.misread_unless(bytes.is_some());
        Some(Opened { found, bytes: bytes? })
    }
}

fn read(file: File) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= MAX_BYTES).then_some(bytes)
}

/// The containers that monitors watch over now, and whose word that is.
pub fn watched() -> Vec<(Started, u32)> {
    let ours = proc::our_mount_namespaces();
    let watched = |pid: u32| {
        let is_monitor = |name: &[u8]| name == b"conmon" || name.starts_with(b"containerd-shim");
        proc::stat_of(pid).filter(|stat| is_monitor(stat.name.bytes()))?;
        let image = proc::image_of(pid)?;
        let said = started(image.args.as_ref()?.iter())?;
        let uid = proc::ids_of(pid)?.uid;
        let bundle = said.bundle.or_else(|| fs::read_link(format!("/proc/{pid}/cwd")).ok());
        let is_believed = is_believed(uid, &image, &ours, || cgroup::is_in_container(pid));
        is_believed.then_some((Started { bundle, ..said }, uid))
    };
    proc::pids().filter_map(watched).collect()
}

/// Whether a process may say what a container is called. One that is in a container has no right
/// to speak of others, nor has root outside of `ours`, the mount namespaces of the host.
pub fn is_believed(
    uid: u32,
    image: &Image,
    ours: &[u32],
    is_inside: impl FnOnce() -> bool,
) -> bool {
    let is_ours = || image.file.and_then(|file| file.mntns).is_some_and(|ns| ours.contains(&ns));
    (uid != 0 || is_ours()) && !is_inside()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const ID: &str = "4f8a1c6b2d3e5f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8";

    #[test]
    fn why_a_container_has_no_name_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().join(ID);
        fs::create_dir(&bundle).unwrap();
        let uid = fs::metadata(&bundle).unwrap().uid();
        let question = Question { id: ID.into(), uid, bundle: Some(bundle.clone()), known: None };
        let said = || match outcome(&question) {
            Outcome::Nothing(why) => Some(why),
            _ => None,
        };
        assert_eq!(said(), Some(Why::Absent));
        let file = bundle.join("config.json");
        fs::write(&file, "x").unwrap();
        assert_eq!(said(), Some(Why::Misread));
        fs::set_permissions(&file, Permissions::from_mode(0o000)).unwrap();
        let without_rights = || {
            rights::keep_none();
            said()
        };
        // A thread of its own, for these rights are those of a thread.
        let denied = thread::scope(|threads| threads.spawn(without_rights).join().unwrap());
        assert_eq!(denied, Some(Why::Denied));
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let annotations = r#"{"annotations":{"nerdctl/name":"web"}}"#;
        fs::write(&file, annotations).unwrap();
        assert_eq!(said(), None);
    }

    #[test]
    fn a_user_whose_file_holds_up_a_thread_holds_up_no_other() {
        let waiting = Waiting { questions: VecDeque::new(), served: [None; FOR_USERS] };
        let shared = Arc::new(Shared { waiting: Mutex::new(waiting), more: Condvar::new() });
        let readers = Readers { shared: Arc::clone(&shared), answers: channel().1 };
        let of = |uid: u32| Question { id: ID.into(), uid, bundle: None, known: None };
        assert!((0..MAX_OF_USER).all(|_| readers.ask(of(1))));
        assert!(!readers.ask(of(1)), "one has no more than a share of what waits");
        assert!(readers.ask(of(7)) && readers.ask(of(0)));
        let next = |place| shared.next(place).uid;
        assert_eq!([next(Some(0)), next(Some(1)), next(None)], [1, 7, 0]);
        // Its next turn.
        assert_eq!(next(Some(0)), 1);
    }
}
