// SPDX-License-Identifier: Apache-2.0
//! Names of users. /etc/passwd has most of them; whatever else the user database is made
//! of may ask the network, so a thread of its own does, and no row waits long for it.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::rc::Rc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::channel;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::unistd::Uid;
use nix::unistd::User;

use crate::host::rights;

/// How long a row waits for a name, and then no row for a while: while the database does
/// not answer, rows are late by no more than a tenth of the time.
const PATIENCE: Duration = Duration::from_millis(100);
const IMPATIENCE: Duration = Duration::from_secs(1);
/// Ids that wait to be asked for; of more there is no name for now.
const MAX_ASKED: usize = 64;
/// Names that are kept. One user may have 65,536 subordinate ids, and gets no more of
/// this than these.
const MAX_NAMES: usize = 4_096;

type Name = Option<Rc<str>>;

pub struct Users {
    passwd: Passwd,
    /// `None` for an id without a name.
    names: HashMap<u32, Name>,
    /// Asked for, and not yet answered.
    asked: HashSet<u32>,
    questions: SyncSender<u32>,
    answers: Receiver<(u32, Option<String>)>,
    impatient_until: Option<Instant>,
}

impl Users {
    pub fn new() -> Self {
        Self::asking(|uid| Some(User::from_uid(Uid::from_raw(uid)).ok()??.name))
    }

    fn asking(ask: impl Fn(u32) -> Option<String> + Send + 'static) -> Self {
        let (questions, asked) = sync_channel(MAX_ASKED);
        let (answer, answers) = channel();
        let (harmless, is_harmless) = channel();
        // It ends with the process, or without the other end; without it there are ids.
        let _ = thread::Builder::new().name("users".into()).spawn(move || {
            // The database may load what it likes.
            rights::keep_none();
            drop(harmless);
            // SAFETY: no memory is passed. Only the reader comes first, see trace/mod.rs; of
            // this thread alone.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) };
            for uid in asked {
                if answer.send((uid, ask(uid))).is_err() {
                    return;
                }
            }
        });
        // A thread that waits for its turn still has all rights. This returns when the sender
        // is gone, also where no thread could be started.
        let _: Result<(), _> = is_harmless.recv();
        Users {
            passwd: Passwd::default(),
            names: HashMap::new(),
            asked: HashSet::new(),
            questions,
            answers,
            impatient_until: None,
        }
    }

    /// `None` too if nobody answers in time; the next row may have it.
    pub fn name(&mut self, uid: u32) -> Name {
        while let Ok((uid, name)) = self.answers.try_recv() {
            self.note(uid, name);
        }
        if let Some(name) = self.names.get(&uid) {
            return name.clone();
        }
        if let Some(name) = self.passwd.name(uid) {
            return self.note(uid, Some(name));
        }
        if !self.asked.contains(&uid) {
            if self.questions.try_send(uid).is_err() {
                return None;
            }
            self.asked.insert(uid);
        }
        self.wait(uid)
    }

    fn wait(&mut self, uid: u32) -> Name {
        let began = Instant::now();
        if self.impatient_until.is_some_and(|at| began < at) {
            return None;
        }
        while let Some(left) = PATIENCE.checked_sub(began.elapsed()) {
            let Ok((answered, name)) = self.answers.recv_timeout(left) else { break };
            let name = self.note(answered, name);
            if answered == uid {
                return name;
            }
        }
        self.impatient_until = Some(Instant::now() + IMPATIENCE);
        None
    }

    fn note(&mut self, uid: u32, name: Option<String>) -> Name {
        if self.names.len() >= MAX_NAMES {
            self.names.clear();
        }
        self.asked.remove(&uid);
        let name: Name = name.map(Into::into);
        self.names.insert(uid, name.clone());
        name
    }
}

/// /etc/passwd, read again when it is another file or was written to.
#[derive(Default)]
struct Passwd {
    /// Inode, size and time of change.
    version: (u64, u64, i64, i64),
    names: HashMap<u32, String>,
}

impl Passwd {
    fn name(&mut self, uid: u32) -> Option<String> {
        const PATH: &str = "/etc/passwd";
        let now = fs::metadata(PATH).ok()?;
        let version = (now.ino(), now.size(), now.ctime(), now.ctime_nsec());
        if version != self.version {
            self.version = version;
            self.names = parse(&fs::read(PATH).unwrap_or_default());
        }
        self.names.get(&uid).cloned()
    }
}

/// The first line of an id tells its name.
fn parse(passwd: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in passwd.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b':');
        let text = |field: Option<&[u8]>| String::from_utf8(field?.to_vec()).ok();
        let (name, uid) = (text(fields.next()), text(fields.nth(1)));
        // "+name" takes it from elsewhere.
        if let (Some(name), Some(Ok(uid))) = (name, uid.map(|uid| uid.parse()))
            && !name.is_empty()
            && !name.starts_with(['+', '-', '#'])
        {
            names.entry(uid).or_insert(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_line_of_passwd_names_an_id_and_the_first_of_two_does() {
        let passwd = b"root:x:0:0:r:/root:/bin/sh\n# a:b:1:\n+nis:x:2:\n\n\xff:x:3:\ntoor:x:0:\n\
            a:x:4:5\nb:x:no:\nc";
        let expected = [(0, "root".to_owned()), (4, "a".to_owned())];
        assert_eq!(parse(passwd), HashMap::from(expected));
    }

    #[test]
    fn who_is_not_in_passwd_is_asked_for_once() {
        let (ask, asked) = channel();
        let mut users = Users::asking(move |uid| {
            ask.send(uid).expect("somebody listens");
            (uid % 2 == 0).then(|| format!("user{uid}"))
        });
        users.passwd.version.0 = 1;
        for _ in 0..3 {
            assert_eq!(users.name(4_000_000_000).as_deref(), Some("user4000000000"));
            assert_eq!(users.name(4_000_000_001), None);
        }
        assert_eq!(asked.try_iter().collect::<Vec<_>>(), [4_000_000_000, 4_000_000_001]);
        assert_eq!(users.name(0).as_deref(), Some("root"));
    }

    /// Each would wait for 100 ms, and there are 100,000.
    #[test]
    fn a_database_that_does_not_answer_holds_up_few_rows_and_fills_no_memory() {
        let (release, released) = channel::<()>();
        let released = Mutex::new(released);
        let mut users = Users::asking(move |uid| {
            let _ = released.lock().expect("one thread").recv();
            Some(format!("user{uid}"))
        });
        let many = 4_000_000_000..4_000_100_000;
        let began = Instant::now();
        assert!(many.clone().all(|uid| users.name(uid).is_none()));
        assert!(began.elapsed() < 100_000 * PATIENCE / 10);
        assert!(users.asked.len() <= MAX_ASKED + 1);
        assert_eq!(users.name(0).as_deref(), Some("root"));
        drop(release);
        while users.name(many.start).is_none() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn names_of_many_ids_are_forgotten() {
        let mut users = Users::asking(|uid| Some(uid.to_string()));
        for uid in 4_000_000_000..4_000_000_000 + 3 * MAX_NAMES as u32 {
            users.name(uid);
        }
        assert!(users.names.len() <= MAX_NAMES);
    }
}
