// SPDX-License-Identifier: Apache-2.0
//! podman of an ordinary user, beside a systemd of that user's: who has logged in has one, and it
//! makes the cgroups of his containers. Nothing of this machine changes: the user and his
//! subordinate ids are in files that a mount namespace shows in place of /etc's, where /run is
//! empty, and all that he runs is in one cgroup, and ends with it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tcpconnect::host::cgroup;

use super::Daemon;
use super::Engine;
use super::OPTIONS;
use super::OURS;
use super::assert_success;
use super::busybox;
use super::lab;
use super::lab::Cgroup;
use super::lab::Tracer;
use super::run;
use super::succeeds;

/// A user that no machine has, and the first of the ids below him.
pub const USER: u32 = 60_100;
const SUBORDINATE: u32 = 1_000_000_000;
const IMAGE: &str = "localhost/bb:1";

/// Runs what follows as the user, and with nothing of this environment.
const AS_USER: &str = r#"exec setpriv --reuid="$user" --regid="$user" --clear-groups env -i \
    PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME="$folder/home" XDG_RUNTIME_DIR="/run/user/$user" \
    DBUS_SESSION_BUS_ADDRESS="unix:path=/run/user/$user/bus""#;
/// What `unshare --mount` runs: all that this mounts is there for nobody else.
const LOG_IN: &str = r#"
for file in passwd group subuid subgid; do mount --bind "$folder/$file" "/etc/$file"; done
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/systemd/system "/run/user/$user"
chown "$user:$user" "/run/user/$user"
chmod 700 "/run/user/$user"
# Where there are hierarchies of version 1, too, podman and systemd would use those.
test "$cgroups" = /sys/fs/cgroup || mount --bind "$cgroups" /sys/fs/cgroup
echo $$ > "/sys/fs/cgroup$own/cgroup.procs"
"#;

/// A user who has logged in.
pub struct Rootless {
    pub daemon: Daemon,
    /// What root gave to the user's own manager, and what that is in.
    service: Cgroup,
    slice: Cgroup,
    /// A command that runs what follows as the user.
    run: String,
}

impl Rootless {
    pub fn log_in(test: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        busybox(folder.path());
        fs::create_dir(path("home")).expect("ours");
        for (file, line) in [
            ("passwd", format!("rootless:x:{USER}:{USER}::{}:/bin/sh\n", path("home"))),
            ("group", format!("rootless:x:{USER}:\n")),
        ] {
            let all = fs::read_to_string(format!("/etc/{file}")).expect("each machine has it");
            fs::write(path(file), all + &line).expect("ours");
        }
        for file in ["subuid", "subgid"] {
            fs::write(path(file), format!("rootless:{SUBORDINATE}:65536\n")).expect("ours");
        }
        for path in [folder.path(), &folder.path().join("home")] {
            chown(path, Some(USER), Some(USER)).expect("we are root");
        }
        let slice = Cgroup::new(&format!("{test}.slice"));
        let service = slice.inside(&format!("user@{USER}.service"));
        // What systemd delegates.
        for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            chown(service.0.join(file), Some(USER), Some(USER)).expect("we are root");
        }
        let variables = format!(
            "export user={USER} folder='{}' own='{}' cgroups='{}'\n",
            folder.path().display(),
            service.path(),
            cgroup::mount().expect("cgroup v2 is mounted").display()
        );
        let script = format!("set -e\n{variables}{LOG_IN}{AS_USER} /lib/systemd/systemd --user");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]);
        let run = path("as-user");
        let daemon = Daemon::start(folder, &mut command);
        let script = format!(
            "#!/bin/sh\n{variables}exec nsenter --mount=/proc/{}/ns/mnt sh -ec '\n\
             echo $$ > \"/sys/fs/cgroup$own/init.scope/cgroup.procs\"\n\
             {AS_USER} \"$@\"' sh \"$@\"\n",
            daemon.child.id()
        );
        fs::write(&run, script).expect("ours");
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).expect("ours");
        let user = Rootless { daemon, service, slice, run };
        let asked = ["systemctl", "--user", "is-active", "dbus.socket"];
        user.daemon.wait_for(|| succeeds(Command::new(&user.run).args(asked)));
        user
    }

    /// podman's command with its options, and the image is there.
    pub fn podman(&self, manager: &str) -> Vec<String> {
        let path = |name: &str| self.daemon.path(name);
        let root = path("home/storage");
        let words = [&self.run, "podman", "--root", &root, "--runtime", "crun"];
        let more = ["--storage-driver", "vfs", "--events-backend", "file"];
        let last = ["--cgroup-manager", manager];
        let words: Vec<_> =
            words.iter().chain(&more).chain(&last).map(|word| (*word).to_owned()).collect();
        let mut command = Command::new(&words[0]);
        run(command.args(&words[1..]).args(["import", &path("image.tar"), "bb:1"]));
        words
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        end_all_in(&self.slice);
    }
}

/// What podman leaves behind is in a session of its own each, so all end by their cgroup.
pub fn end_all_in(slice: &Cgroup) {
    let _ = fs::write(slice.0.join("cgroup.kill"), "1");
    let events = || fs::read_to_string(slice.0.join("cgroup.events")).unwrap_or_default();
    for _ in 0..500 {
        if !events().contains("populated 1") {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    remove_below(&slice.0);
}

fn remove_below(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[test]
fn containers_of_a_users_podman_have_their_names_as_claims() {
    let user = Rootless::log_in("systemd");
    let tool = user.podman("systemd");
    let tool: Vec<_> = tool.iter().map(String::as_str).collect();
    let engine = Engine { tool: &tool, image: IMAGE, run: &OPTIONS, is_claimed: true, many: 30 };
    engine.check(26_000);
}

/// podman makes none where the user has no systemd, and has not said where to make one.
#[test]
fn a_users_container_without_a_cgroup_of_its_own_is_none() {
    let user = Rootless::log_in("cgroupfs");
    let (tool, parent) = (user.podman("cgroupfs"), user.service.path());
    let tool: Vec<_> = tool.iter().map(String::as_str).collect();
    let with_own = [&OPTIONS[..], &["--cgroup-parent", &parent]].concat();
    let engine = |run| Engine { tool: &tool, image: IMAGE, run, is_claimed: true, many: 0 };
    let first: u16 = 26_300;
    let ports = format!("{first}-{}", first + 9);
    let trace = |more: &[&str]| {
        let mut command = Command::new(lab::tcpconnect());
        command.args(["--netns", OURS, "-P", &ports, "--container-name", "--container-id"]);
        Tracer::start(command, more)
    };
    let (rows, table) = (trace(&["-j"]), trace(&[]));
    let filtered = trace(&["-j", "--container", "without"]);
    engine(&with_own).knock("with", first);
    engine(&OPTIONS).knock("without", first + 1);
    let done = rows.stop();
    done.assert_success();
    let keys = ["dport", "container_name", "container_claimed"];
    let of = |row: &Value| Value::from(keys.map(|key| row[key].clone()).to_vec());
    let found: Vec<_> = done.rows().iter().map(of).collect();
    let expected = [json!([first, "with", true]), json!([first + 1, null, null])];
    assert_eq!(found, expected, "{done:#?}");
    assert_eq!(done.rows()[1]["container_id"], Value::Null);
    let id = done.rows()[0]["container_id"].as_str().expect("it has one")[..12].to_owned();
    let done = table.stop();
    let lines: Vec<Vec<_>> =
        done.table().iter().map(|line| line.split_whitespace().collect()).collect();
    let has = |line: usize, word: &str| lines[line].contains(&word);
    assert!(has(0, "with?") && has(0, &format!("{id}?")), "{done:#?}");
    assert!(has(1, "-") && !lines[1].iter().any(|word| word.ends_with('?')), "{done:#?}");
    let done = filtered.stop();
    assert_success(&done);
    assert_eq!(done.rows(), [Value::Null; 0], "{done:#?}");
}
