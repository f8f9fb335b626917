// SPDX-License-Identifier: Apache-2.0
//! What the name of a cgroup directory says: which container it holds, and
//! whether it is the container or unit somebody asked for; and what people call it. Pure.

use std::fmt::Write as _;
use std::rc::Rc;

/// Before the name of a container of LXC.
pub const LXC: &str = "lxc.payload.";

/// Digits of a full id, as docker, containerd, cri-o and podman make them.
const ID_LEN: usize = 64;
/// Digits of a short id.
pub const SHORT_ID_LEN: usize = 12;
/// Fewer could mean several containers, or be a word.
const MIN_ID_LEN: usize = 6;

/// A container that a cgroup path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The full id; for LXC and systemd-nspawn, which have none, the name, and what it is part of
    /// where a name alone could be another's.
    pub id: String,
    /// Others than root made the directory, under what name they liked.
    pub claimed: bool,
    /// `None` if they were not asked for, or nobody says.
    pub names: Option<Rc<Names>>,
}

impl Container {
    pub fn new(id: impl Into<String>, claimed: bool) -> Self {
        Container { id: id.into(), claimed, names: None }
    }
}

/// What people call a container, by what its runtime wrote down. No identity: a name is used
/// again, and whoever starts a container chooses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Of the container; in a pod, the name that it has there.
    pub name: Option<Box<str>>,
    /// As who started it called it.
    pub image: Option<Box<str>>,
    pub pod: Option<Pod>,
    pub compose: Option<Compose>,
    pub runtime: Option<Runtime>,
    pub source: NameSource,
}

/// A pod of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: Box<str>,
    pub namespace: Option<Box<str>>,
    pub uid: Option<Box<str>>,
}

/// What a container is for compose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compose {
    pub project: Box<str>,
    pub service: Option<Box<str>>,
}

impl Names {
    /// What people type: NAME, or NAMESPACE/POD/NAME.
    pub fn shown(&self) -> Option<String> {
        let mut shown = String::new();
        if let Some(pod) = &self.pod {
            let _ = write!(shown, "{}/{}", pod.namespace.as_deref().unwrap_or("-"), pod.name);
        }
        if let Some(name) = &self.name {
            let slash = if shown.is_empty() { "" } else { "/" };
            let _ = write!(shown, "{slash}{name}");
        }
        (!shown.is_empty()).then_some(shown)
    }
}

/// Who runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    Docker,
    Podman,
    Containerd,
    CriO,
    Nerdctl,
    Lxc,
    Nspawn,
}

impl Runtime {
    pub const ALL: [Runtime; 7] = [
        Runtime::Docker,
        Runtime::Podman,
        Runtime::Containerd,
        Runtime::CriO,
        Runtime::Nerdctl,
        Runtime::Lxc,
        Runtime::Nspawn,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Runtime::Docker => "docker",
            Runtime::Podman => "podman",
            Runtime::Containerd => "containerd",
            Runtime::CriO => "cri-o",
            Runtime::Nerdctl => "nerdctl",
            Runtime::Lxc => "lxc",
            Runtime::Nspawn => "systemd-nspawn",
        }
    }
}

/// Where the names of a container come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameSource {
    /// config.json of its bundle.
    #[default]
    Bundle,
    /// Arguments of conmon.
    Conmon,
    /// docker's config.v2.json.
    Docker,
    /// containers.json of containers-storage.
    Storage,
    /// The name of its log in /var/log/containers.
    Logs,
    /// The name of its cgroup.
    Cgroup,
}

impl NameSource {
    pub const ALL: [NameSource; 6] = [
        NameSource::Bundle,
        NameSource::Conmon,
        NameSource::Docker,
        NameSource::Storage,
        NameSource::Logs,
        NameSource::Cgroup,
    ];

    pub fn name(self) -> &'static str {
        match self {
            NameSource::Bundle => "bundle",
            NameSource::Conmon => "conmon",
            NameSource::Docker => "docker",
            NameSource::Storage => "storage",
            NameSource::Logs => "logs",
            NameSource::Cgroup => "cgroup",
        }
    }
}

/// The innermost container of those that root made. Where there is none, the outermost of
/// others, as of podman without root: who is inside one can make any further in.
///
/// `names` are directories from the innermost to the root, each with the user who made it. That
/// of the container is returned, too, but not of one in another: whoever is root in that one calls
/// directories as it likes.
pub fn of<'a>(
    names: impl DoubleEndedIterator<Item = (&'a str, u32)> + Clone,
) -> Option<(Container, Option<u32>)> {
    let ids = names.clone().filter(|(name, _)| id_of(name).is_some()).count();
    let found = |(name, owner): (&'a str, u32)| {
        let container = Container::new(id_of(name)?, owner != 0);
        Some((container, (ids == 1).then_some(owner)))
    };
    let of_root = names.clone().filter(|(_, owner)| *owner == 0).find_map(found);
    of_root.or_else(|| names.rev().find_map(found))
}

/// The id that a directory is called after, if it is that of a container.
pub fn id_of_directory(name: &[u8]) -> Option<&str> {
    id_of(std::str::from_utf8(name).ok()?)
}

/// The ids in a path, that of the outermost directory first.
pub fn ids_in(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(id_of)
}

/// That of the innermost directory that has one.
pub fn id_in(path: &str) -> Option<&str> {
    ids_in(path).last()
}

/// A runtime's own monitor and a pod as a whole are no containers.
fn id_of(name: &str) -> Option<&str> {
    if let Some(own) = name.strip_prefix(LXC) {
        // Else it would be taken for one of systemd-nspawn, of docker, or of LXC with another name.
        let is_others = name_of_machine(own).is_some() || is_full_id(own) || own.starts_with(LXC);
        return Some(if is_others { name } else { own }).filter(|_| !own.is_empty());
    }
    let registered = name.strip_suffix(".scope").filter(|name| name.starts_with("machine-"));
    let of_unit = || name.strip_suffix(".service").filter(|name| name.contains("-nspawn@"));
    let machine = registered.or_else(of_unit);
    if let Some(machine) = machine.filter(|machine| name_of_machine(machine).is_some()) {
        return Some(machine);
    }
    if name.contains("conmon") || name.contains("_pod_") {
        return None;
    }
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    words.find(|word| is_full_id(word))
}

/// The systemd unit of a process: the first directory from the root that is no slice, if root made
/// it. A user's own systemd has its units below that.
pub fn unit_of<'a>(mut from_root: impl Iterator<Item = (&'a str, u32)>) -> Option<&'a str> {
    const TYPES: [&str; 6] = [".service", ".scope", ".socket", ".mount", ".automount", ".swap"];
    let (name, owner) = from_root.find(|(name, _)| !name.ends_with(".slice"))?;
    (owner == 0 && TYPES.iter().any(|ending| name.ends_with(ending))).then_some(name)
}

/// The name of a container of systemd-nspawn, by a directory without its ending. libvirt's are
/// virtual machines, or containers with a number of their own.
pub fn name_of_machine(machine: &str) -> Option<String> {
    let is_of_libvirt = |name: &&str| {
        let number = ["qemu", "lxc", "ch"]
            .iter()
            .find_map(|driver| name.strip_prefix(driver)?.strip_prefix("\\x2d"));
        number.is_some_and(|number| number.starts_with(|first: char| first.is_ascii_digit()))
    };
    let registered = machine.strip_prefix("machine-").filter(|name| !is_of_libvirt(name));
    let name = registered.or_else(|| machine.strip_prefix("systemd-nspawn@"))?;
    // systemd-escape(1)
    let mut parts = name.split("\\x");
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(&part.as_bytes()[2..]);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|name| !name.is_empty())
}

/// What a container is called that has no id but this: by LXC, or by systemd-nspawn.
pub fn name_in_id(id: &str) -> Option<(Box<str>, Runtime)> {
    match name_of_machine(id) {
        _ if is_full_id(id) => None,
        Some(name) => Some((name.into(), Runtime::Nspawn)),
        None => Some((id.strip_prefix(LXC).unwrap_or(id).into(), Runtime::Lxc)),
    }
}

/// Whether it is an id as runtimes make them, with all its digits.
pub fn is_full_id(text: &str) -> bool {
    text.len() == ID_LEN && is_id(text)
}

/// Whether `--container` with this text means the container of this id. Digits may be the beginning
/// of a runtime's, but of no name; that may stand as in the name of its directory.
pub fn is_called(id: &str, text: &str) -> bool {
    match is_full_id(id) {
        true => may_begin_id(text) && id.starts_with(text),
        false => {
            text == id
                || id_of(text) == Some(id)
                || id.strip_prefix(LXC) == Some(text)
                || name_of_machine(id).as_deref() == Some(text)
        }
    }
}

fn may_begin_id(text: &str) -> bool {
    (MIN_ID_LEN..=ID_LEN).contains(&text.len()) && is_id(text)
}

fn is_id(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A directory name that is wanted, or the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub text: String,
    /// Nothing may follow.
    pub whole: bool,
    /// How many directories count that others than root made.
    pub room: u32,
}

/// Of one name: more than a user runs of one container without root, and too few to
/// matter to anybody else.
pub const MAX_CLAIMED: u32 = 64;
/// Of all names: those of some thousand sessions and services of users are among them.
const MAX_CLAIMED_OF_ANY: u32 = 4_096;
/// Longer ones are no part of a directory's name. The kernel compares shorter ones, of ids alone.
const MAX_IN_DIRECTORY: usize = 255;

/// Whether it may be what people call a container: not if it is a short id as docker prints
/// it, or a longer one. What has more digits than an id is none.
pub fn may_be_name(text: &str) -> bool {
    !(SHORT_ID_LEN..=ID_LEN).contains(&text.len()) || !is_id(text)
}

impl Pattern {
    pub fn whole(text: impl Into<String>) -> Self {
        Pattern { text: text.into(), whole: true, room: MAX_CLAIMED }
    }

    /// A unit of the system: each user has a systemd of its own, and names in it.
    pub fn unit(text: impl Into<String>) -> Self {
        Pattern { room: 0, ..Pattern::whole(text) }
    }

    /// Of a container, whatever its name is. The kernel, which cannot tell by the name, lets
    /// any new directory in.
    pub fn any_container() -> Self {
        Pattern { text: String::new(), whole: false, room: MAX_CLAIMED_OF_ANY }
    }

    /// For messages.
    pub fn shown(&self) -> String {
        if self.text.is_empty() {
            return "as a container may be".into();
        }
        format!("{}{}", self.text, if self.whole { "" } else { "*" })
    }

    pub fn matches(&self, name: &[u8]) -> bool {
        match self.whole {
            _ if self.text.is_empty() => id_of_directory(name).is_some(),
            true => name == self.text.as_bytes(),
            false => name.starts_with(self.text.as_bytes()),
        }
    }
}

/// The directory names that a container of this id or name can have.
pub fn patterns(container: &str) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    if container.contains('/') || container.len() > MAX_IN_DIRECTORY {
        return patterns;
    }
    if may_begin_id(container) {
        for runtime in ["", "docker-", "cri-containerd-", "crio-", "libpod-", "nerdctl-"] {
            let text = format!("{runtime}{container}");
            patterns.push(Pattern { whole: false, ..Pattern::whole(text) });
        }
    } else {
        patterns.push(Pattern::whole(container));
    }
    for (before, after) in [("lxc.payload.", ""), ("machine-", ".scope"), ("pod", "")] {
        patterns.push(Pattern::whole(format!("{before}{container}{after}")));
    }
    // systemd's slices nest by "-", so a pod's uid has "_" there.
    let uid = container.replace('-', "_");
    for class in ["", "-burstable", "-besteffort"] {
        patterns.push(Pattern::whole(format!("kubepods{class}-pod{uid}.slice")));
    }
    patterns
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f8a1c6b2d3e5f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8";

    #[test]
    fn the_id_is_found_in_the_paths_of_every_runtime() {
        let samples = [
            "/docker/ID",
            "/system.slice/docker-ID.scope",
            "/system.slice/docker-ID.scope/init.scope",
            "/kubepods/burstable/pod5a1e7d0c-7c1e-4a43-9a52-3a2d3c1f0e11/ID",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod5a1e7d0c_7c1e.slice/\
             cri-containerd-ID.scope",
            "/kubepods.slice/kubepods-pod5a1e7d0c_7c1e.slice/crio-ID.scope",
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1.slice:cri-containerd:ID",
            "/machine.slice/libpod-ID.scope/container",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
            "/libpod_parent/libpod-ID",
            "/default/ID",
            "/system.slice/nerdctl-ID.scope",
            "/ecs/0a1b2c3d4e5f60718293a4b5c6d7e8f9/ID",
            "/actions_job/ID",
        ];
        for sample in samples {
            assert_eq!(id_in(&sample.replace("ID", ID)), Some(ID), "{sample}");
        }
        assert_eq!(id_in("/lxc.payload.web01/system.slice/nginx.service"), Some("web01"));
        let machine = id_in("/machine.slice/machine-my\\x2dbox.scope/payload/init.scope");
        assert_eq!(machine, Some("machine-my\\x2dbox"));
        assert_eq!(name_of_machine(machine.unwrap()).as_deref(), Some("my-box"));
        let machine = id_in("/machine.slice/systemd-nspawn@web.service/payload");
        assert_eq!(machine.and_then(name_of_machine).as_deref(), Some("web"));
        let of_lxc = id_in("/lxc.payload.machine-web");
        assert_eq!(of_lxc, Some("lxc.payload.machine-web"), "it is not called web");
        assert_eq!(name_of_machine("machine-lxc\\x2dtest").as_deref(), Some("lxc-test"));
        for other in [
            "machine-qemu\\x2d1\\x2dvm",
            "machine-lxc\\x2d1\\x2da",
            "machine-",
            "machine-a\\xzz",
            "machine-\\x+f",
        ] {
            assert_eq!(id_in(&format!("/machine.slice/{other}.scope")), None, "{other}");
        }
        assert_eq!(id_in("/system.slice/machine-web.service"), None, "it is any service");
    }

    #[test]
    fn each_name_of_lxc_is_its_own_whatever_it_looks_like() {
        for name in ["web", "machine-web", "lxc.payload.web", "lxc.payload.machine-web", ID, "lxc"]
        {
            let directory = format!("lxc.payload.{name}");
            let id = id_in(&directory).unwrap();
            assert_eq!(name_in_id(id), Some((name.into(), Runtime::Lxc)), "{name}");
            assert!(is_called(id, name) && is_called(id, &directory), "{name}");
            assert!(!is_called(id, "we") && !is_called(id, "4f8a1c6b2d3e"), "{name}");
            assert_eq!(is_called(id, "lxc.payload.web"), matches!(name, "web" | "lxc.payload.web"));
        }
        assert_eq!(id_in("/lxc.payload."), None, "LXC has no container without a name");
    }

    #[test]
    fn one_of_nspawn_is_called_as_its_directory_too() {
        assert!(is_called("machine-my\\x2dbox", "my-box"));
        assert!(is_called("machine-my\\x2dbox", "machine-my\\x2dbox.scope"));
        assert!(is_called("systemd-nspawn@web", "systemd-nspawn@web.service"));
        assert!(!is_called("machine-web", "lxc.payload.machine-web"));
        assert!(is_called(ID, &ID[..6]) && !is_called(ID, &ID[..5]) && !is_called(ID, "web"));
    }

    #[test]
    fn what_people_call_a_container_makes_it_no_monitor_and_no_pod() {
        for (name, id) in [
            ("lxc.payload.my_pod_1", Some("my_pod_1")),
            ("lxc.payload.conmon", Some("conmon")),
            ("machine-conmon\\x2dtest.scope", Some("machine-conmon\\x2dtest")),
            ("systemd-nspawn@a_pod_b.service", Some("systemd-nspawn@a_pod_b")),
            ("libpod-conmon-ID.scope", None),
            ("crio-conmon-ID.scope", None),
            ("libpod_pod_ID", None),
        ] {
            assert_eq!(id_in(&name.replace("ID", ID)), id, "{name}");
        }
    }

    #[test]
    fn of_nested_containers_the_innermost_counts() {
        let inner = ID.replace('4', "9");
        let path = format!("/docker/{ID}/docker/{inner}");
        assert_eq!(id_in(&path), Some(&*inner));
    }

    #[test]
    fn a_container_that_root_made_comes_before_what_others_claim() {
        let (one, other) = (format!("docker-{ID}.scope"), ID.replace('4', "9"));
        let claimed = format!("docker-{other}.scope");
        let container = |id: &str, is_claimed| Some((Container::new(id, is_claimed), None));
        let user = ("user@1000.service", 0);
        let inside = [(&*claimed, 1000), ("below", 1000), (&*one, 0), ("system.slice", 0)];
        assert_eq!(of(inside.into_iter()), container(ID, false));
        let rootless = [(&*claimed, 7), ("container", 1000), (&*one, 1000), user];
        assert_eq!(of(rootless.into_iter()), container(ID, true));
        assert_eq!(of([(&*claimed, 0), (&*one, 0)].into_iter()), container(&other, false));
        let alone = [("below", 1000), (&*one, 1000), user];
        assert_eq!(of(alone.into_iter()), Some((Container::new(ID, true), Some(1000))));
        assert_eq!(of([user].into_iter()), None);
    }

    #[test]
    fn what_is_no_container_has_no_id() {
        let others = [
            "/",
            "/system.slice/nginx.service",
            "/user.slice/user-1000.slice/session-3.scope",
            "/machine.slice/libpod-conmon-ID.scope",
            "/kubepods.slice/kubepods-pod1.slice/crio-conmon-ID.scope",
            "/machine.slice/machine-libpod_pod_ID.slice",
            "/docker/IDaa",
            "/docker/4f8a1c6b2d3e",
        ];
        for other in others {
            assert_eq!(id_in(&other.replace("ID", ID)), None, "{other}");
        }
        assert_eq!(id_in(&format!("/docker/{}", ID.to_uppercase())), None);
    }

    fn any_matches(container: &str, name: &str) -> bool {
        patterns(container).iter().any(|p| p.matches(name.as_bytes()))
    }

    #[test]
    fn a_short_id_matches_the_directory_of_every_runtime() {
        let forms = ["ID", "docker-ID.scope", "cri-containerd-ID.scope", "crio-ID.scope"];
        for form in forms.iter().chain(&["libpod-ID.scope", "libpod-ID", "nerdctl-ID.scope"]) {
            let name = form.replace("ID", ID);
            for id in [ID, &ID[..SHORT_ID_LEN], &ID[..MIN_ID_LEN]] {
                assert!(any_matches(id, &name), "{id} {name}");
            }
        }
        assert!(!any_matches(&ID[..12], &format!("libpod-conmon-{ID}.scope")));
        assert!(!any_matches(&ID[1..13], &format!("docker-{ID}.scope")));
    }

    #[test]
    fn a_word_of_few_digits_may_be_a_name_and_a_short_id_is_none() {
        assert!(may_be_name("facade") && may_be_name("web") && may_be_name("4f8a1c6b2d3x"));
        assert!(!may_be_name(&ID[..SHORT_ID_LEN]) && !may_be_name(ID));
        // Without any pattern there would be no filter in the kernel.
        for digits in 1..=255 {
            let text = "a".repeat(digits);
            assert!(may_be_name(&text) || patterns(&text).iter().all(|p| p.text.len() <= 128));
            assert!(!patterns(&text).is_empty(), "{digits}");
        }
        let longer = "a".repeat(ID_LEN + 1);
        assert!(may_be_name(&longer) && any_matches(&longer, &longer));
        assert!(patterns("default/web/nginx").is_empty());
        assert!(any_matches(&"y".repeat(120), &"y".repeat(120)));
    }

    #[test]
    fn any_container_is_a_directory_with_an_id() {
        let any = Pattern::any_container();
        assert!(any.matches(ID.as_bytes()) && any.matches(b"lxc.payload.web"));
        assert!(!any.matches(b"nginx.service") && !any.matches(b""));
    }

    #[test]
    fn the_unit_is_the_systems_own() {
        let unit = |path: &'static str, owner: u32| {
            unit_of(path.split('/').map(move |name| (name, owner))).unwrap_or("-")
        };
        assert_eq!(unit("system.slice/nginx.service/worker", 0), "nginx.service");
        let user = "user.slice/user-1000.slice/user@1000.service/app.slice/x.service";
        assert_eq!(unit(user, 0), "user@1000.service");
        assert_eq!(unit("init.scope", 0), "init.scope");
        assert_eq!(unit("system.slice/a-b.slice", 0), "-");
        assert_eq!(unit("docker/x.service", 0), "-");
        assert_eq!(unit("x.service", 1000), "-");
    }

    #[test]
    fn a_name_matches_as_a_whole() {
        assert!(any_matches("web01", "lxc.payload.web01"));
        assert!(any_matches("web01", "machine-web01.scope"));
        assert!(any_matches("web01", "web01"));
        assert!(!any_matches("web0", "web01"));
        let pod = "5a1e7d0c-7c1e-4a43-9a52-3a2d3c1f0e11";
        assert!(any_matches(pod, &format!("pod{pod}")));
        assert!(any_matches(
            pod,
            &format!("kubepods-burstable-pod{}.slice", pod.replace('-', "_"))
        ));
    }
}
