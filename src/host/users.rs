// SPDX-License-Identifier: Apache-2.0
//! Names of users, from a small process of their own: it opens files and starts programs, which
//! the tracer can do no more once it traces. /etc/passwd has most names; whoever else is asked, no
//! row waits long for it.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::io::PipeReader;
use std::io::PipeWriter;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::process::Stdio;
use std::rc::Rc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::error::warn;
use crate::host::helpers::stand_apart;
use crate::host::rights;
use crate::host::sandbox;
use crate::poll::poll;
use crate::poll::readable;

/// How long a row waits for a name, and then no row for a while: while the database does
/// not answer, rows are late by no more than a tenth of the time.
const PATIENCE: Duration = Duration::from_millis(100);
const IMPATIENCE: Duration = Duration::from_secs(1);
/// Ids that wait to be asked for; of more there is no name for now. A pipe has room for
/// them all.
const MAX_ASKED: usize = 64;
/// Names that are kept. One user may have 65,536 subordinate ids, and gets no more of
/// this than these.
const MAX_NAMES: usize = 4_096;
/// Bytes of a name; useradd(8) makes none of more than 32.
const MAX_NAME: usize = 256;
/// Bytes of what getent may say of one.
const MAX_LINE: u64 = 65_536;

type Name = Option<Rc<str>>;

pub struct Users {
    /// `None` for an id without a name.
    names: HashMap<u32, Name>,
    /// Asked for, and not yet answered.
    asked: HashSet<u32>,
    questions: PipeWriter,
    answers: PipeReader,
    impatient_until: Option<Instant>,
    /// It said nothing at all in the last time that a row waited.
    is_silent: bool,
    /// It has ended, which is said once.
    is_gone: bool,
}

/// What the process says of an id.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    /// No name is an answer, too.
    Name(Name),
    /// Somebody else is being asked, who may take long.
    Later,
    /// Too many others are being asked for.
    Busy,
}

/// Id, length, and that many bytes of a name; none of a name that there is not. Written at
/// once, for it is smaller than PIPE_BUF.
type Answer = [u8; 8 + MAX_NAME];
/// In place of a length.
const LATER: u32 = u32::MAX;
const BUSY: u32 = u32::MAX - 1;

fn write_answer(mut to: impl Write, uid: u32, said: &Said) -> io::Result<()> {
    let mut answer: Answer = [0; 8 + MAX_NAME];
    let length = match said {
        Said::Later => LATER,
        Said::Busy => BUSY,
        Said::Name(name) => {
            let name = name.as_deref().filter(|name| name.len() <= MAX_NAME).unwrap_or_default();
            answer[8..][..name.len()].copy_from_slice(name.as_bytes());
            name.len() as u32
        }
    };
    answer[..4].copy_from_slice(&uid.to_ne_bytes());
    answer[4..8].copy_from_slice(&length.to_ne_bytes());
    to.write_all(&answer)
}

fn read_answer(mut from: impl Read) -> io::Result<(u32, Said)> {
    let (mut uid, mut length, mut name) = ([0; 4], [0; 4], [0; MAX_NAME]);
    from.read_exact(&mut uid)?;
    from.read_exact(&mut length)?;
    from.read_exact(&mut name)?;
    let said = match u32::from_ne_bytes(length) {
        LATER => Said::Later,
        BUSY => Said::Busy,
        length => {
            let name = name.get(..length as usize).unwrap_or_default();
            let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty());
            Said::Name(name.map(Into::into))
        }
    };
    Ok((u32::from_ne_bytes(uid), said))
}

impl Users {
    /// Starts the process. There must be no other thread yet, which could hold a lock that
    /// the process would wait for.
    pub fn start() -> io::Result<Self> {
        let (questions, asker) = io::pipe()?;
        let (answerer, answers) = io::pipe()?;
        // SAFETY: this is the only thread, so that all of the child's memory is whole.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop((asker, answerer));
                be_harmless(&questions, &answers);
                // No row is to wait for a disk: that took 100 ms with cold caches.
                let mut passwd = Passwd::default();
                passwd.name(0);
                let _ = write_answer(&answers, 0, &Said::Busy);
                serve(passwd, questions, answers, ask_getent);
                // SAFETY: ends the process, whatever its other thread waits for.
                unsafe { libc::_exit(0) }
            }
            _ => Ok(Users::over(asker, answerer)),
        }
    }

    /// Returns once the process has given up what it does not need, or has ended: then
    /// there are ids.
    pub fn once_harmless(mut self) -> Self {
        let _ = read_answer(&mut self.answers);
        self
    }

    fn over(questions: PipeWriter, answers: PipeReader) -> Self {
        Users {
            names: HashMap::new(),
            asked: HashSet::new(),
            questions,
            answers,
            impatient_until: None,
            is_silent: false,
            is_gone: false,
        }
    }

    /// `None` too if nobody answers in time; the next row may have it.
    pub fn name(&mut self, uid: u32) -> Name {
        while let Some((uid, said)) = self.answer(Duration::ZERO) {
            self.note(uid, &said);
        }
        if let Some(name) = self.names.get(&uid) {
            return name.clone();
        }
        let is_impatient = self.impatient_until.is_some_and(|at| Instant::now() < at);
        if is_impatient && (self.is_silent || self.asked.contains(&uid)) {
            return None;
        }
        if !self.asked.contains(&uid) {
            if self.asked.len() >= 2 * MAX_ASKED
                || self.questions.write_all(&uid.to_ne_bytes()).is_err()
            {
                return None;
            }
            self.asked.insert(uid);
        }
        self.wait(uid, is_impatient)
    }

    /// The next answer, if it comes within this time.
    fn answer(&mut self, within: Duration) -> Option<(u32, Said)> {
        let mut fds = [readable(self.answers.as_raw_fd())];
        poll(&mut fds, within).ok()?;
        if fds[0].revents == 0 {
            return None;
        }
        let answer = read_answer(&self.answers).ok();
        if answer.is_none() && !std::mem::replace(&mut self.is_gone, true) {
            warn("tcpconnect: the process that names users has ended; numbers stand for names");
        }
        answer
    }

    fn wait(&mut self, uid: u32, is_impatient: bool) -> Name {
        let began = Instant::now();
        self.is_silent = true;
        while let Some(left) = PATIENCE.checked_sub(began.elapsed()) {
            let Some((answered, said)) = self.answer(left) else { break };
            self.is_silent = false;
            self.note(answered, &said);
            match said {
                _ if answered != uid => {}
                Said::Name(name) => return name,
                Said::Later if !is_impatient => {}
                Said::Later | Said::Busy => return None,
            }
        }
        self.impatient_until = Some(Instant::now() + IMPATIENCE);
        None
    }

    fn note(&mut self, uid: u32, said: &Said) {
        if *said != Said::Later {
            self.asked.remove(&uid);
        }
        if let Said::Name(name) = said {
            if self.names.len() >= MAX_NAMES {
                self.names.clear();
            }
            self.names.insert(uid, name.clone());
        }
    }
}

/// In the process of names: nothing of the tracer's stays open, no capability, no file and
/// no other process that can be changed, and no end by the signals that end the tracer,
/// which has yet to print its last rows. It ends with the tracer.
fn be_harmless(questions: &PipeReader, answers: &PipeWriter) {
    // SAFETY: numbers only; the descriptors that are closed belong to the tracer's copy of itself,
    // of which nothing else runs here.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        stand_apart(3, &[questions.as_raw_fd(), answers.as_raw_fd()]);
    }
    rights::keep_none();
    sandbox::change_nothing();
}

/// Answers until nobody asks any more. Whom /etc/passwd does not name is asked for in a
/// thread: the others do not wait for that.
fn serve(
    mut passwd: Passwd,
    mut questions: impl Read,
    mut answers: PipeWriter,
    ask: impl Fn(u32) -> Option<String> + Send + 'static,
) {
    let (others, asked) = sync_channel(MAX_ASKED);
    let Ok(late) = answers.try_clone() else { return };
    let ask_others = move || {
        for uid in asked {
            let name = Said::Name(ask(uid).map(Into::into));
            if write_answer(&late, uid, &name).is_err() {
                return;
            }
        }
    };
    // Without a thread the channel is closed, and there are ids.
    let _ = thread::Builder::new().spawn(ask_others);
    let mut uid = [0; 4];
    while questions.read_exact(&mut uid).is_ok() {
        let uid = u32::from_ne_bytes(uid);
        let said = match passwd.name(uid) {
            Some(name) => Said::Name(Some(name.into())),
            // The answer to what is asked here cannot come before this.
            None => Said::Later,
        };
        if write_answer(&mut answers, uid, &said).is_err() {
            return;
        }
        if said == Said::Later && others.try_send(uid).is_err() {
            let _ = write_answer(&mut answers, uid, &Said::Busy);
        }
    }
}

/// The rest of the user database, by the C library's own program: it loads any library, and one that
/// is linked statically crashes with those of another version. Where there is no such program, as in
/// an empty container, nobody else knows users either.
fn ask_getent(uid: u32) -> Option<String> {
    let mut getent = Command::new("/usr/bin/getent");
    getent.args(["passwd", &uid.to_string()]).env_clear();
    // Of this process they lead nowhere already, and Landlock lets it open not even /dev/null to write.
    getent.stdin(Stdio::inherit()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    // SAFETY: a system call, with numbers only.
    unsafe {
        getent.pre_exec(|| {
            // The database may take minutes, and the tracer may end before.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        })
    };
    let mut getent = getent.spawn().ok()?;
    let mut line = Vec::new();
    let read = getent.stdout.take()?.take(MAX_LINE).read_to_end(&mut line);
    let _ = getent.wait();
    read.ok()?;
    parse(&line).remove(&uid)
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

/// The first line of an id has its name.
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
    use std::sync::mpsc::channel;

    use super::*;

    /// The other end is a thread here.
    fn asking(ask: impl Fn(u32) -> Option<String> + Send + 'static) -> Users {
        let (questions, asker) = io::pipe().unwrap();
        let (answerer, answers) = io::pipe().unwrap();
        thread::spawn(move || serve(Passwd::default(), questions, answers, ask));
        Users::over(asker, answerer)
    }

    #[test]
    fn an_answer_is_read_as_it_was_meant_and_a_false_one_names_nobody() {
        let sent = |said: &Said| {
            let mut bytes = Vec::new();
            write_answer(&mut bytes, 7, said).unwrap();
            read_answer(&*bytes).unwrap()
        };
        let name = |name: &str| Said::Name(Some(name.into()));
        let long = "x".repeat(MAX_NAME);
        for said in [name("a"), name("\u{e4}\u{1b}"), name(&long), Said::Later, Said::Busy] {
            assert_eq!(sent(&said), (7, said));
        }
        assert_eq!(sent(&name(&(long + "x"))).1, Said::Name(None));
        for (length, byte) in [(MAX_NAME as u32 + 1, b'a'), (1, 0xff), (0, b'a')] {
            let mut answer = [byte; 8 + MAX_NAME];
            answer[4..8].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(read_answer(&answer[..]).unwrap().1, Said::Name(None));
        }
        assert!(read_answer(&[0; 20][..]).is_err());
    }

    #[test]
    fn a_line_of_passwd_names_an_id_and_the_first_of_two_does() {
        let passwd = b"root:x:0:0:r:/root:/bin/sh\n# a:b:1:\n+nis:x:2:\n\n\xff:x:3:\ntoor:x:0:\n\
            a:x:4:5\nb:x:no:\nc";
        let expected = [(0, "root".to_owned()), (4, "a".to_owned())];
        assert_eq!(parse(passwd), HashMap::from(expected));
    }

    /// Once it is known: a busy host may give the other end no CPU for longer than a row
    /// waits.
    fn name(users: &mut Users, uid: u32) -> Name {
        loop {
            let name = users.name(uid);
            if users.names.contains_key(&uid) {
                return name;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn who_is_not_in_passwd_is_asked_for_once() {
        let (ask, asked) = channel();
        let mut users = asking(move |uid| {
            ask.send(uid).expect("somebody listens");
            (uid % 2 == 0).then(|| format!("user{uid}"))
        });
        for _ in 0..3 {
            assert_eq!(name(&mut users, 4_000_000_000).as_deref(), Some("user4000000000"));
            assert_eq!(name(&mut users, 4_000_000_001), None);
        }
        assert_eq!(asked.try_iter().collect::<Vec<_>>(), [4_000_000_000, 4_000_000_001]);
        assert_eq!(name(&mut users, 0).as_deref(), Some("root"));
    }

    /// Each would wait for 100 ms, and there are 100,000.
    #[test]
    fn a_database_that_does_not_answer_holds_up_few_rows_and_fills_no_memory() {
        let (release, released) = channel::<()>();
        let released = Mutex::new(released);
        let mut users = asking(move |uid| {
            let _ = released.lock().expect("one thread").recv();
            Some(format!("user{uid}"))
        });
        let many = 4_000_000_000..4_000_100_000;
        let began = Instant::now();
        assert!(many.clone().all(|uid| users.name(uid).is_none()));
        assert!(began.elapsed() < 100_000 * PATIENCE / 10);
        assert!(users.asked.len() <= 2 * MAX_ASKED);
        assert_eq!(name(&mut users, 0).as_deref(), Some("root"));
        drop(release);
        let first = name(&mut users, many.start);
        assert_eq!(first.as_deref(), Some("user4000000000"));
    }

    #[test]
    fn names_of_many_ids_are_forgotten() {
        let mut users = asking(|uid| Some(uid.to_string()));
        for uid in 4_000_000_000..4_000_000_000 + 3 * MAX_NAMES as u32 {
            users.name(uid);
        }
        assert!(users.names.len() <= MAX_NAMES);
    }
}
