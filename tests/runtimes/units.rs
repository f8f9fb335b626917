// SPDX-License-Identifier: Apache-2.0
//! podman that systemd runs: the unit that `podman generate systemd` writes, that with the cgroups
//! of Quadlet, and a podman that stays. Both managers: root's, which is pid 1 and so has namespaces
//! of its own, and a user's. Nothing of this machine changes: the first one has /run empty, no unit
//! but those of the test, and is in one cgroup, as the user is (rootless.rs).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

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
use super::lab::Starting;
use super::lab::Tracer;
use super::podman;
use super::rootless::Rootless;
use super::rootless::USER;
use super::rootless::end_all_in;
use super::run;
use super::succeeds;

const IMAGE: &str = "localhost/bb:1";

/// What pid 1 of a new pid namespace does before it is systemd. Whoever knows the whole hierarchy
/// finds it in `$folder/cgroups`; at the usual place is what the manager shall use.
const BOOT: &str = r#"
mount -t proc none /proc
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/systemd/system "$folder/cgroups"
mount --bind "$cgroups" "$folder/cgroups"
echo $$ > "$folder/cgroups$own/cgroup.procs"
eval "$prepare"
exec unshare --cgroup sh -ec '
mount -t cgroup2 none /sys/fs/cgroup
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=test \
    SYSTEMD_UNIT_PATH="$folder/units" /lib/systemd/systemd --system --unit=box.target
'
"#;

/// A system's manager.
pub struct Booted {
    pub daemon: Daemon,
    slice: Cgroup,
    /// Pid 1, as this test has it.
    first: u32,
}

impl Booted {
    /// In its mount namespace `prepare` comes before, which knows these variables; `add` puts
    /// units beside those that all have.
    pub fn boot(prepare: &str, more: &[(&str, OsString)], add: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let units = folder.path().join("units");
        fs::create_dir(&units).expect("ours");
        // All units need those of its start and end.
        for target in ["box", "sysinit", "basic", "shutdown"] {
            fs::write(units.join(format!("{target}.target")), "[Unit]\n").expect("ours");
        }
        add(&units);
        let slice = Cgroup::new("system.slice");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", BOOT]);
        command.env("folder", folder.path()).env("own", slice.path());
        command.env("prepare", prepare).envs(more.iter().cloned());
        command.env("cgroups", cgroup::mount().expect("cgroup v2 is mounted"));
        let daemon = Daemon::start(folder, &mut command);
        let parent = daemon.child.id();
        let children = || fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        let first = || children().ok()?.trim().parse().ok();
        daemon.wait_for(|| first().is_some());
        let system = Booted { first: first().expect("it runs"), daemon, slice };
        let enter = system.enter();
        let asked = ["systemctl", "is-active", "box.target"];
        system.daemon.wait_for(|| succeeds(Command::new(&enter[0]).args(&enter[1..]).args(asked)));
        system
    }

    pub fn enter(&self) -> Vec<String> {
        let first = self.first.to_string();
        let words = ["nsenter", "--mount", "--pid", "--cgroup", "--target", &first];
        words.map(str::to_owned).to_vec()
    }

    /// One that runs where the manager does: only of its own mount namespace does a tracer believe
    /// what root says of containers.
    fn trace(&self, args: &[&str]) -> Tracer {
        let namespace = |kind: &str| {
            File::open(format!("/proc/{}/ns/{kind}", self.first)).expect("pid 1 is there")
        };
        let (pids, mounts) = (namespace("pid"), namespace("mnt"));
        let mut command = Command::new(lab::tcpconnect());
        // SAFETY: setns() is a system call without a lock or memory of its own.
        unsafe {
            command.pre_exec(move || match libc::setns(mounts.as_raw_fd(), libc::CLONE_NEWNS) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        // The next child of a thread that has changed its pid namespace is in that one, and the
        // thread can start no other thread.
        let start = || {
            // SAFETY: takes a descriptor and a number, and is about this thread.
            assert_eq!(unsafe { libc::setns(pids.as_raw_fd(), libc::CLONE_NEWPID) }, 0);
            Starting::new(command, args)
        };
        let starting = thread::scope(|threads| threads.spawn(start).join());
        starting.expect("it starts").traces()
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        end_all_in(&self.slice);
    }
}

/// A manager with podman, and what is different with each.
struct Manager<'a> {
    engine: Engine<'a>,
    /// What leads to the manager, before any command.
    enter: &'a [&'a str],
    systemctl: &'a [&'a str],
    folder: PathBuf,
    trace: &'a dyn Fn(&[&str]) -> Tracer,
    /// Those that it runs; the number is of the port.
    units: &'a [(u16, &'a str)],
    /// The unit of the rows of a container, by its unit and its id.
    unit_of: fn(&str, &str) -> String,
}

impl Manager<'_> {
    fn systemctl(&self, words: &[&str]) -> String {
        let words = [self.enter, self.systemctl, words].concat();
        run(Command::new(words[0]).args(&words[1..]))
    }

    fn write(&self, name: &str, unit: &str) {
        fs::write(self.folder.join(format!("{name}.service")), unit).expect("ours");
    }

    /// `web` as podman writes it, `split` with cgroups as Quadlet makes them, `plain` and `job`
    /// run podman itself; each connects to a port of its own.
    fn write_units(&self, first: u16) {
        // systemd ends podman, which tells the container: pid 1 of a namespace would not hear it.
        let stay = "sleep 1000 & wait";
        let script =
            |n: u16, then: &str| format!("trap exit TERM; nc 127.0.0.1 {}; {then}", first + n);
        let options = [self.engine.run, &[IMAGE, "sh", "-c"]].concat();
        for &(n, name) in self.units.iter().filter(|(_, name)| ["web", "split"].contains(name)) {
            let script = script(n, stay);
            let create = [&["create", "--name", name], &options[..], &[&script]].concat();
            self.engine.ask(&create);
            let unit = self.engine.ask(&["generate", "systemd", "--new", "--name", name]);
            self.engine.ask(&["rm", name]);
            assert!(unit.contains("--cgroups=no-conmon") && unit.contains("sdnotify"), "{unit}");
            let cgroups = if name == "split" { "--cgroups=split" } else { "--cgroups=no-conmon" };
            self.write(name, &unit.replace("--cgroups=no-conmon", cgroups));
        }
        let podman = self.engine.tool[self.enter.len()..].join(" ");
        for (n, name, kind, then) in [(2, "plain", "exec", stay), (4, "job", "oneshot", ":")] {
            let (options, script) = (options.join(" "), script(n, then));
            let run = format!("{podman} run --rm --replace --name {name} {options} '{script}'");
            self.write(name, &format!("[Service]\nType={kind}\nExecStart={run}\n"));
        }
        self.systemctl(&["daemon-reload"]);
    }

    /// `first` of the ports is this one's.
    fn check(&self, first: u16) {
        self.write_units(first);
        let ports = format!("{first}-{}", first + 9);
        let words = ["-j", "--container-name", "--netns", OURS, "-P", &ports];
        let trace = |more: &[&str]| (self.trace)(&[&words[..], more].concat());
        self.systemctl(&["start", "web"]);
        let all = trace(&[]);
        let filtered = [&["--container", "web"][..], &["--container", "job"], &["--unit", "split"]];
        let filtered = filtered.map(trace);
        self.engine.knock_in("web", first);
        let mut order = vec![(0, "web")];
        for &(n, name) in self.units {
            // `web` has been started once.
            for _ in 0..if name == "web" { 1 } else { 2 } {
                self.systemctl(&["restart", name]);
                order.push((n, name));
                all.wait_for_rows(order.len());
            }
        }
        self.systemctl(&["restart", "web"]);
        order.push((1, "web"));
        all.wait_for_rows(order.len());
        let names: Vec<_> = self.units.iter().map(|(_, name)| *name).collect();
        self.systemctl(&[&["stop"], &names[..]].concat());
        let done = all.stop();
        assert_success(&done);
        let rows = done.rows();
        let expected: Vec<_> = std::iter::zip(&order, &rows)
            .map(|(&(n, name), row)| {
                let id = row["container_id"].as_str().expect("each is in a container");
                json!([first + n, name, (self.unit_of)(&format!("{name}.service"), id)])
            })
            .collect();
        let of = |row: &Value| {
            let claimed = self.engine.is_claimed;
            assert_eq!(row["container_claimed"] == true, claimed, "{row:#}");
            let image = &row["container_image"];
            assert!(*image == IMAGE || claimed && image.is_null(), "{row:#}");
            json!([row["dport"], row["container_name"], row["unit"]])
        };
        assert_eq!(rows.iter().map(of).collect::<Vec<_>>(), expected, "{done:#?}");
        // Only what was started before has two rows of one container.
        let ids: BTreeSet<_> = rows.iter().map(|row| row["container_id"].to_string()).collect();
        assert_eq!(ids.len(), order.len(), "{done:#?}");
        let [web, job, split] = filtered.map(|tracer| {
            let done = tracer.stop();
            assert_success(&done);
            done.rows().iter().map(of).collect::<Vec<_>>()
        });
        let called = |name: &str| -> Vec<Value> {
            expected.iter().filter(|row| row[1] == name).cloned().collect()
        };
        assert_eq!([web, job], [called("web"), called("job")]);
        // A user's units are not the system's.
        let is_of_split = |row: &&Value| row[2] == "split.service";
        assert_eq!(split, expected.iter().filter(is_of_split).cloned().collect::<Vec<_>>());
    }
}

#[test]
fn containers_of_podman_in_units_of_the_system_have_their_names() {
    let system = Booted::boot("", &[], |units| {
        busybox(units.parent().expect("its folder"));
    });
    let enter = system.enter();
    let path = |name: &str| system.daemon.path(name);
    let tool = podman(system.daemon.folder.path(), "systemd");
    let tool: Vec<_> = enter.iter().chain(&tool).map(String::as_str).collect();
    let enter: Vec<_> = enter.iter().map(String::as_str).collect();
    let engine = Engine { tool: &tool, image: IMAGE, run: &OPTIONS, is_claimed: false, many: 0 };
    engine.ask(&["import", &path("image.tar"), "bb:1"]);
    let manager = Manager {
        engine,
        enter: &enter,
        systemctl: &["systemctl"],
        folder: path("units").into(),
        trace: &|args| system.trace(args),
        units: &[(1, "web"), (2, "plain"), (3, "split"), (4, "job")],
        unit_of: |unit, id| match unit {
            "split.service" => unit.to_owned(),
            _ => format!("libpod-{id}.scope"),
        },
    };
    manager.check(26_400);
}

#[test]
fn containers_of_podman_in_units_of_a_user_have_their_names() {
    let user = Rootless::log_in("units");
    let tool = user.podman("systemd");
    let tool: Vec<_> = tool.iter().map(String::as_str).collect();
    let engine = Engine { tool: &tool, image: IMAGE, run: &OPTIONS, is_claimed: true, many: 0 };
    let folder = PathBuf::from(user.daemon.path("home/.config/systemd/user"));
    fs::create_dir_all(&folder).expect("ours");
    let manager = Manager {
        engine,
        enter: &tool[..1],
        systemctl: &["systemctl", "--user"],
        folder,
        trace: &|args| Tracer::start(Command::new(lab::tcpconnect()), args),
        // Where there are hierarchies of version 1, too, podman cannot split a user's.
        units: &[(1, "web"), (2, "plain"), (4, "job")],
        unit_of: |_, _| format!("user@{USER}.service"),
    };
    manager.check(26_420);
}
