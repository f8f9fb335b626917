// SPDX-License-Identifier: Apache-2.0
//! The service that records, as it is installed, under a manager of its own: its start, a new file, a
//! crash, a process that hangs, its end, and the end of the host, while connections are made all the
//! time.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use tcpconnect::model::file_name::FileName;

use super::lab;
use super::run;
use super::succeeds;
use super::units::Booted;

const UNIT: &str = "tcpconnect-record.service";

/// What the host of the service has beside the units: its user as the package makes it, the program
/// where it is installed, and a folder of ours for /var/lib.
const PREPARE: &str = r#"
mkdir -p "$folder/root/etc" "$folder/state"
cp /etc/passwd /etc/group "$folder/root/etc"
systemd-sysusers --root="$folder/root" - < "$sysusers"
mount --bind "$folder/root/etc/passwd" /etc/passwd
mount --bind "$folder/root/etc/group" /etc/group
mount --bind "$folder/state" /var/lib
mount -t tmpfs -o mode=755 none /usr/local/sbin
cp "$program" /usr/local/sbin/tcpconnect
"#;

/// It connects to one address after the other, where nobody listens, and writes down which it has
/// done.
const KNOCK: &str = r#"
[Unit]
After=tcpconnect-record.service
[Service]
ExecStart=/bin/busybox sh -c 'n=0; while :; do n=$$((n+1)); busybox nc 127.1.$$((n/250)).$$((n%%250+1)) 9; echo $$n; busybox usleep 20000; done'
StandardOutput=append:/var/lib/knocks
StandardError=null
"#;

/// A watchdog that does not take half a minute to be seen.
const SOONER: &str = "[Service]\nWatchdogSec=10\n";

struct Service {
    system: Booted,
    folder: PathBuf,
}

impl Service {
    fn boot() -> Self {
        let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let path = |name: &str| repository.join("systemd").join(name);
        let sysusers = path("tcpconnect.sysusers");
        let more = [("sysusers", sysusers.as_os_str()), ("program", lab::tcpconnect().as_os_str())]
            .map(|(name, value)| (name, value.to_owned()));
        let system = Booted::boot(PREPARE, &more, |units| {
            fs::copy(path(UNIT), units.join(UNIT)).expect("ours");
            fs::write(units.join("knock.service"), KNOCK).expect("ours");
            let more = units.join(format!("{UNIT}.d"));
            fs::create_dir(&more).expect("ours");
            fs::write(more.join("test.conf"), SOONER).expect("ours");
            // What the end of a system needs.
            for name in ["exit.target", "systemd-exit.service", "umount.target", "final.target"] {
                let from = PathBuf::from("/lib/systemd/system").join(name);
                fs::copy(from, units.join(name)).expect("make runtimes installs it");
            }
        });
        let folder = system.daemon.path("state").into();
        Service { system, folder }
    }

    fn enter(&self, words: &[&str]) -> String {
        let enter = self.system.enter();
        run(Command::new(&enter[0]).args(&enter[1..]).args(words))
    }

    fn systemctl(&self, words: &[&str]) {
        self.enter(&[&["systemctl"], words].concat());
    }

    /// The manager ends before it answers.
    fn exit(&self) {
        let enter = self.system.enter();
        let _ = succeeds(Command::new(&enter[0]).args(&enter[1..]).args(["systemctl", "exit"]));
    }

    fn property(&self, name: &str) -> String {
        self.enter(&["systemctl", "show", "--value", "-p", name, UNIT])
    }

    fn is_active(&self) -> bool {
        self.property("ActiveState") == "active" && self.property("StatusText") == "Tracing"
    }

    fn signal_main(&self, signal: &str) {
        let pid = self.property("MainPID");
        self.enter(&["kill", "-s", signal, &pid]);
    }

    fn wait_for(&self, what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            let log = fs::read_to_string(self.system.daemon.path("log")).unwrap_or_default();
            let state = self.property("ActiveState");
            assert!(began.elapsed() < Duration::from_secs(120), "{what}: {state}: {log}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// As often as it has been restarted by itself.
    fn wait_for_restart(&self, restarts: u32) {
        let is_so = || self.property("NRestarts") == restarts.to_string() && self.is_active();
        self.wait_for("it is started again", is_so);
    }

    fn knocks(&self) -> u32 {
        let done = fs::read_to_string(self.folder.join("knocks")).unwrap_or_default();
        done.lines().last().map_or(0, |line| line.parse().expect("a number"))
    }

    /// Once so many more are done: the number of the last.
    fn wait_for_knocks(&self, more: u32) -> u32 {
        let first = self.knocks();
        self.wait_for("connections are made", || self.knocks() >= first + more);
        self.knocks()
    }

    /// Those that are closed or written, the last one last.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.folder.join("tcpconnect")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        let number = |path: &PathBuf| Some(FileName::of(path)?.sequence);
        files.retain(|path| number(path).is_some());
        files.sort_by_key(number);
        files
    }

    /// What comes next would say that nothing was recorded, and not that it was killed.
    fn assert_ends_with_stop(&self) {
        let files = self.files();
        let last = files.last().expect("it has recorded");
        let bytes = fs::read(last).expect("a file");
        assert!(last.extension().is_some_and(|ending| ending == "parquet"), "{files:?}");
        assert!(String::from_utf8_lossy(&bytes).contains(r#"\"event\":\"stop\""#), "{files:?}");
    }

    /// The numbers of the connections that are recorded, why others may not be, and the whole answer.
    fn read(&self) -> (BTreeSet<u32>, Vec<String>, Value) {
        let mut command = Command::new(lab::tcpconnect());
        command.args(["-j", "-r", "-x", "-P", "9", "--read"]).arg(self.folder.join("tcpconnect"));
        let text = run(&mut command);
        let rows: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
        let of = |event: &'static str| rows.iter().filter(move |row| row["event"] == event);
        let number = |row: &Value| {
            let text = row["daddr"].as_str().expect("an address");
            let parts: Vec<u32> =
                text.split('.').map(|part| part.parse().expect("a part")).collect();
            parts[2] * 250 + parts[3] - 1
        };
        let is_told = |row: &Value| row["exe"].as_str().is_some_and(|exe| exe.ends_with("busybox"));
        assert!(of("result").all(is_told), "{text:.2000}");
        let numbers: Vec<_> = of("result").map(number).collect();
        let found: BTreeSet<_> = numbers.iter().copied().collect();
        assert_eq!(found.len(), numbers.len(), "a row is there twice");
        let gaps = of("gap").map(|gap| gap["why"].as_str().expect("a text").to_owned()).collect();
        (found, gaps, rows.last().expect("what it covers").clone())
    }
}

fn assert_all(found: &BTreeSet<u32>, numbers: std::ops::RangeInclusive<u32>) {
    let missing: Vec<_> = numbers.clone().filter(|n| !found.contains(n)).collect();
    assert!(missing.is_empty(), "of {numbers:?} these are missing: {missing:?}");
}

#[test]
fn the_service_records_whatever_happens_to_it_and_says_when_it_did_not() {
    const KILLED: &str = "the recorder had ended without a word";
    const STOPPED: &str = "nothing was recorded";
    let mut service = Service::boot();
    // It is there once it says that it traces.
    service.systemctl(&["start", UNIT]);
    assert!(service.is_active());
    let uid = service.enter(&["stat", "-c", "%U %a", "/var/lib/tcpconnect"]);
    assert_eq!(uid, "tcpconnect 700");
    service.systemctl(&["start", "knock"]);
    let first = service.wait_for_knocks(20);

    // Reload: what was written is closed, and nothing is missing.
    let files = service.files().len();
    service.systemctl(&["reload", UNIT]);
    service.wait_for("a new file begins", || service.files().len() > files);
    let reloaded = service.wait_for_knocks(20);
    service.wait_for("the last second is read", || service.read().0.contains(&reloaded));
    let (found, gaps, coverage) = service.read();
    assert_all(&found, 1..=reloaded);
    assert_eq!((gaps.len(), &coverage["complete"]), (0, &Value::Bool(true)), "{coverage}");

    // A crash.
    service.signal_main("KILL");
    service.wait_for_restart(1);
    let after_crash = service.knocks() + 1;
    let crashed = service.wait_for_knocks(20);
    service.wait_for("the last second is read", || service.read().0.contains(&crashed));
    let (found, gaps, coverage) = service.read();
    assert_all(&found, 1..=reloaded);
    assert_all(&found, after_crash..=crashed);
    assert_eq!((gaps, &coverage["complete"]), (vec![KILLED.into()], &Value::Bool(false)));

    // One that hangs is found by the watchdog, and one that does not is left alone.
    let patience = Instant::now();
    while patience.elapsed() < Duration::from_secs(15) {
        assert_eq!(service.property("NRestarts"), "1");
        thread::sleep(Duration::from_millis(500));
    }
    service.signal_main("STOP");
    service.wait_for_restart(2);
    let after_hang = service.knocks() + 1;
    let hung = service.wait_for_knocks(20);

    // An end that was asked for is no crash.
    service.systemctl(&["stop", UNIT]);
    assert_eq!(service.property("Result"), "success");
    let (found, gaps, _) = service.read();
    assert_all(&found, after_hang..=hung);
    assert_eq!(gaps, [KILLED, KILLED]);
    service.systemctl(&["start", UNIT]);
    let after_stop = service.knocks() + 1;
    service.wait_for_knocks(20);

    // The host goes down: the recorder outlives those whom it watches.
    service.exit();
    let ended = service.system.daemon.child.wait().expect("our child");
    let last = service.knocks();
    let (found, gaps, coverage) = service.read();
    assert_all(&found, after_stop..=last);
    assert!(last > after_stop + 19 && first > 0, "{ended}");
    assert_eq!(gaps, [KILLED, KILLED, STOPPED], "{coverage}");
    service.assert_ends_with_stop();
}

/// Of what systemd calls the exposure of a unit 100 is all, which it prints as 10.0.
#[test]
fn what_the_service_could_do_is_little_by_the_measure_of_systemd() {
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--no-pager", "--offline=true", "--threshold=20"]);
    let unit = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("systemd").join(UNIT);
    run(command.arg(unit));
}
