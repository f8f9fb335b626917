// SPDX-License-Identifier: Apache-2.0
//! What runtimes write down of a container: in the arguments of their monitors, and in files that
//! are no interface of theirs, so what is not understood is left out. Others choose all of these
//! texts. Opens nothing.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::DeserializeSeed;
use serde::de::SeqAccess;
use serde::de::Visitor;

use crate::model::container::Compose;
use crate::model::container::NameSource;
use crate::model::container::Names;
use crate::model::container::Pod;
use crate::model::container::Runtime;
use crate::model::container::is_full_id;

/// Bytes of a name that are kept: a longer one is none. An image's has at most 255 for its
/// repository, 128 for its tag and 71 for its digest.
const MAX_TEXT: usize = 512;

/// Of a bundle's path; those of runtimes have some 100.
const MAX_PATH: usize = 1_024;
/// How programs are called that make a container of a bundle.
const RUNTIMES: [&str; 6] = ["runc", "crun", "youki", "runsc", "kata-runtime", "container-runtime"];

fn text(text: &str) -> Option<Box<str>> {
    (1..=MAX_TEXT).contains(&text.len()).then(|| text.into())
}

/// A container that somebody starts, or watches over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    pub id: Box<str>,
    /// As conmon was told.
    pub name: Option<Box<str>>,
    /// The folder with config.json; `None` where it is the working folder of that process.
    pub bundle: Option<PathBuf>,
}

/// What the arguments of a process say, if it is conmon (podman, CRI-O), containerd's shim or a
/// runtime as runc that makes a container.
pub fn started<'a>(args: impl Iterator<Item = &'a [u8]> + Clone) -> Option<Started> {
    let program = Path::new(OsStr::from_bytes(args.clone().next()?)).file_name()?.as_bytes();
    let value = |names: [&str; 2]| value_of(args.clone().skip(1), names);
    let bundle = value(["-b", "--bundle"]).filter(|path| path.len() <= MAX_PATH);
    let bundle = bundle.map(|path| PathBuf::from(OsStr::from_bytes(path)));
    let id_of =
        |id: Option<&[u8]>| Some(std::str::from_utf8(id?).ok().filter(|id| is_full_id(id))?.into());
    if program == b"conmon" {
        let name = value(["-n", "--name"]).and_then(|name| text(std::str::from_utf8(name).ok()?));
        // Those of podman exec watch over a program more, in a folder below.
        let bundle = bundle.filter(|path| path.ends_with("userdata"));
        return Some(Started { id: id_of(value(["-c", "--cid"]))?, name, bundle });
    }
    if program.starts_with(b"containerd-shim") {
        return Some(Started { id: id_of(value(["-id", "--id"]))?, name: None, bundle: None });
    }
    let makes = |arg: &[u8]| matches!(arg, b"create" | b"run" | b"restore");
    let is_runtime = RUNTIMES.iter().any(|runtime| program.ends_with(runtime.as_bytes()))
        && args.clone().skip(1).any(makes);
    let (id, bundle) = (id_of(args.last())?, bundle.filter(|_| is_runtime)?);
    Some(Started { id, name: None, bundle: Some(bundle) })
}

/// The first of these options.
fn value_of<'a>(mut args: impl Iterator<Item = &'a [u8]>, names: [&str; 2]) -> Option<&'a [u8]> {
    while let Some(arg) = args.next() {
        for name in names.map(str::as_bytes) {
            match arg.strip_prefix(name) {
                Some(b"") => return args.next(),
                Some([b'=', value @ ..]) => return Some(value),
                _ => {}
            }
        }
    }
    None
}

/// config.json of a bundle, as far as it names anything.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Bundle {
    annotations: HashMap<String, String>,
    mounts: Vec<Mount>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Mount {
    source: String,
}

/// What a bundle says of its container.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Names(Names),
    /// It is docker's, which keeps names in a file of this folder.
    Docker(PathBuf),
}

/// Of a bundle's config.json, `id` being the container's.
///
/// Each runtime is asked for its own annotations alone: podman takes others from an image, whose
/// author would name its containers after those of somebody else.
pub fn of_bundle(json: &[u8], id: &str) -> Option<Said> {
    let bundle: Bundle = serde_json::from_slice(json).ok()?;
    let all = &bundle.annotations;
    let has = |prefix: &str| all.keys().any(|key| key.starts_with(prefix));
    let names = match all.get("io.container.manager").map(String::as_str) {
        Some("libpod") => Names { runtime: Some(Runtime::Podman), ..Names::default() },
        Some("cri-o") => of_annotations(all, &CRIO),
        // A pod may have a volume of any path.
        _ if has("io.kubernetes.cri.") => of_annotations(all, &CONTAINERD),
        _ => match bundle.mounts.iter().find_map(|mount| docker_folder(&mount.source, id)) {
            Some(folder) => return Some(Said::Docker(folder)),
            None => of_nerdctl(all),
        },
    };
    Some(Said::Names(names))
}

/// docker lets a container see its hosts, hostname and resolv.conf, or those of the container
/// whose network it shares, which lie beside their configurations wherever the data root is.
fn docker_folder(source: &str, id: &str) -> Option<PathBuf> {
    const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];
    let source = Path::new(source);
    let is_one = FILES.iter().any(|file| source.ends_with(file));
    let dir = source.parent().filter(|dir| is_one && is_plain(dir))?;
    let is_a_containers =
        is_full_id(dir.file_name()?.to_str()?) && dir.parent()?.ends_with("containers");
    is_a_containers.then(|| dir.with_file_name(id))
}

/// Absolute, without `..`.
pub fn is_plain(path: &Path) -> bool {
    let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    path.is_absolute() && path.components().all(is_plain)
}

/// The annotations that a runtime of Kubernetes makes.
struct Keys {
    kind: &'static str,
    name: &'static str,
    image: &'static str,
    pod: &'static str,
    namespace: &'static str,
    uid: &'static str,
    runtime: Runtime,
}

const CONTAINERD: Keys = Keys {
    kind: "io.kubernetes.cri.container-type",
    name: "io.kubernetes.cri.container-name",
    image: "io.kubernetes.cri.image-name",
    pod: "io.kubernetes.cri.sandbox-name",
    namespace: "io.kubernetes.cri.sandbox-namespace",
    uid: "io.kubernetes.cri.sandbox-uid",
    runtime: Runtime::Containerd,
};
const CRIO: Keys = Keys {
    kind: "io.kubernetes.cri-o.ContainerType",
    name: "io.kubernetes.container.name",
    image: "io.kubernetes.cri-o.ImageName",
    pod: "io.kubernetes.pod.name",
    namespace: "io.kubernetes.pod.namespace",
    uid: "io.kubernetes.pod.uid",
    runtime: Runtime::CriO,
};

fn of_annotations(all: &HashMap<String, String>, keys: &Keys) -> Names {
    let value = |key: &str| all.get(key).and_then(|value| text(value));
    // The container that holds a pod's namespaces is not what the pod runs.
    let is_sandbox = all.get(keys.kind).is_some_and(|kind| kind == "sandbox");
    let (namespace, uid) = (value(keys.namespace), value(keys.uid));
    Names {
        name: value(keys.name).filter(|_| !is_sandbox),
        image: value(keys.image).filter(|_| !is_sandbox),
        pod: value(keys.pod).map(|name| Pod { name, namespace, uid }),
        runtime: Some(keys.runtime),
        ..Names::default()
    }
}

fn of_nerdctl(all: &HashMap<String, String>) -> Names {
    let name = all.get("nerdctl/name").and_then(|name| text(name));
    let compose = name.as_deref().and_then(|name| compose(all, name));
    let runtime = name.as_ref().map(|_| Runtime::Nerdctl);
    Names { name, compose, runtime, ..Names::default() }
}

/// An image may have such labels, too: they hold where compose has named the container after its
/// project and service.
fn compose(labels: &HashMap<String, String>, name: &str) -> Option<Compose> {
    let value = |key: &str| labels.get(key).and_then(|value| text(value));
    let (project, service) =
        (value("com.docker.compose.project")?, value("com.docker.compose.service")?);
    let is_named = |mark: &str| name.starts_with(&format!("{project}{mark}{service}{mark}"));
    (is_named("-") || is_named("_")).then_some(Compose { project, service: Some(service) })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Docker {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    config: DockerConfig,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DockerConfig {
    image: String,
    labels: Option<HashMap<String, String>>,
}

/// Of docker's config.v2.json.
pub fn of_docker(json: &[u8], id: &str) -> Option<Names> {
    let docker: Docker = serde_json::from_slice(json).ok()?;
    let own = docker.name.strip_prefix('/').unwrap_or(&docker.name);
    let names = of_kubelet(own).unwrap_or_else(|| Names {
        name: text(own),
        compose: compose(&docker.config.labels.unwrap_or_default(), own),
        ..Names::default()
    });
    let is_sandbox = names.pod.is_some() && names.name.is_none();
    (docker.id == id).then(|| Names {
        image: text(&docker.config.image).filter(|_| !is_sandbox),
        runtime: Some(Runtime::Docker),
        source: NameSource::Docker,
        ..names
    })
}

/// What kubelet starts by docker is called k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT there, and POD
/// is the container that holds a pod's namespaces.
fn of_kubelet(name: &str) -> Option<Names> {
    let parts: Vec<_> = name.strip_prefix("k8s_")?.split('_').collect();
    let &[container, pod, namespace, uid, _] = parts.as_slice() else { return None };
    let pod = Pod { name: text(pod)?, namespace: text(namespace), uid: text(uid) };
    let name = text(container).filter(|name| &**name != "POD");
    Some(Names { name, pod: Some(pod), ..Names::default() })
}

/// One of containers.json or volatile-containers.json, where containers-storage keeps those of
/// podman and CRI-O.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Stored {
    id: String,
    names: Vec<String>,
    metadata: String,
}

/// JSON in JSON.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Metadata {
    image_name: String,
}

/// The one of this id: others take no memory.
struct Find<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = Option<Stored>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = Option<Stored>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of containers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(stored) = all.next_element::<Stored>()? {
            if stored.id == self.0 {
                found = Some(stored);
            }
        }
        Ok(found)
    }
}

/// Of such a file: `Some(None)` if the container is not in it, `None` if it is another format.
pub fn of_storage(json: &[u8], id: &str) -> Option<Option<Names>> {
    let mut json = serde_json::Deserializer::from_slice(json);
    let Some(stored) = Find(id).deserialize(&mut json).ok()? else { return Some(None) };
    let metadata: Metadata = serde_json::from_str(&stored.metadata).unwrap_or_default();
    Some(Some(Names {
        name: stored.names.first().and_then(|name| text(name)),
        image: text(&metadata.image_name),
        runtime: Some(Runtime::Podman),
        source: NameSource::Storage,
        ..Names::default()
    }))
}

/// Of a name in /var/log/containers, POD_NAMESPACE_CONTAINER-ID.log, and whose it is.
pub fn of_log(file: &str) -> Option<(&str, Names)> {
    let (rest, id) =
        file.strip_suffix(".log")?.rsplit_once('-').filter(|(_, id)| is_full_id(id))?;
    let mut parts = rest.split('_');
    let (pod, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    let names = Names {
        name: text(name),
        pod: text(pod).map(|name| Pod { name, namespace: text(namespace), uid: None }),
        source: NameSource::Logs,
        ..Names::default()
    };
    parts.next().is_none().then_some((id, names))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "4f8a1c6b2d3e5f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8";

    fn started_by(line: &str) -> Option<Started> {
        let line = line.replace("ID", ID);
        started(line.split(' ').map(str::as_bytes))
    }

    fn is(name: Option<&str>, bundle: Option<&str>) -> Option<Started> {
        let bundle = bundle.map(|path| path.replace("ID", ID).into());
        Some(Started { id: ID.into(), name: name.map(Into::into), bundle })
    }

    #[test]
    fn arguments_of_monitors_and_runtimes_say_which_container() {
        for (line, said) in [
            (
                "/usr/bin/conmon --api-version 1 -c ID -u ID -r /usr/bin/crun -b /v/ID/userdata \
                 -n web --exit-command-arg -n --exit-command-arg no",
                is(Some("web"), Some("/v/ID/userdata")),
            ),
            (
                "conmon --cid=ID --name=web --bundle=/b/userdata",
                is(Some("web"), Some("/b/userdata")),
            ),
            ("/usr/bin/containerd-shim-runc-v2 -namespace moby -id ID -address /a", is(None, None)),
            (
                "runc --root /r --log-format json create --bundle /run/c/moby/ID --pid-file p ID",
                is(None, Some("/run/c/moby/ID")),
            ),
            ("/usr/sbin/crun run -b /b/ID ID", is(None, Some("/b/ID"))),
            ("echo run -b /b/ID ID", None),
            ("conmon -c ID -b /v/ID/userdata/4f -n web -e", is(Some("web"), None)),
            ("runc start ID", None),
            ("runc --bundle /b delete ID", None),
            ("conmon -c 4f8a -n web", None),
            ("conmon -c", None),
            ("sh -c ID", None),
            ("", None),
        ] {
            assert_eq!(started_by(line), said, "{line}");
        }
    }

    fn bundle(annotations: serde_json::Value) -> Names {
        let json = json!({"ociVersion": "1.0.2", "annotations": annotations}).to_string();
        match of_bundle(json.as_bytes(), ID) {
            Some(Said::Names(names)) => names,
            other => panic!("{other:?}"),
        }
    }

    fn pod(name: &str, namespace: &str, uid: &str) -> Option<Pod> {
        let (namespace, uid) = (Some(namespace.into()), Some(uid.into()));
        Some(Pod { name: name.into(), namespace, uid })
    }

    #[test]
    fn a_bundle_of_each_runtime_of_kubernetes_has_pod_container_and_image() {
        let containerd = bundle(json!({
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.container-name": "app",
            "io.kubernetes.cri.image-name": "docker.io/library/busybox:1.36",
            "io.kubernetes.cri.sandbox-name": "web-0",
            "io.kubernetes.cri.sandbox-namespace": "shop",
            "io.kubernetes.cri.sandbox-uid": "5a1e",
        }));
        let crio = bundle(json!({
            "io.container.manager": "cri-o",
            "io.kubernetes.cri-o.ContainerType": "container",
            "io.kubernetes.container.name": "app",
            "io.kubernetes.cri-o.ImageName": "docker.io/library/busybox:1.36",
            "io.kubernetes.pod.name": "web-0",
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.pod.uid": "5a1e",
        }));
        let expected = Names {
            name: Some("app".into()),
            image: Some("docker.io/library/busybox:1.36".into()),
            pod: pod("web-0", "shop", "5a1e"),
            runtime: Some(Runtime::Containerd),
            source: NameSource::Bundle,
            ..Names::default()
        };
        assert_eq!(containerd, expected);
        assert_eq!(crio, Names { runtime: Some(Runtime::CriO), ..expected });
        assert_eq!(crio.shown().as_deref(), Some("shop/web-0/app"));
    }

    #[test]
    fn the_container_that_holds_a_pods_namespaces_has_the_name_of_the_pod_alone() {
        let names = bundle(json!({
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-name": "web-0",
            "io.kubernetes.cri.sandbox-namespace": "shop",
            "io.kubernetes.cri.image-name": "pause:3.9",
        }));
        assert_eq!((&names.name, &names.image), (&None, &None));
        assert_eq!(names.shown().as_deref(), Some("shop/web-0"));
    }

    #[test]
    fn nerdctl_and_compose_leave_names_in_annotations() {
        let names = bundle(json!({
            "nerdctl/name": "shop-front-1", "nerdctl/namespace": "default",
            "com.docker.compose.project": "shop", "com.docker.compose.service": "front",
        }));
        let compose = Compose { project: "shop".into(), service: Some("front".into()) };
        assert_eq!(names.shown().as_deref(), Some("shop-front-1"));
        assert_eq!((names.runtime, names.compose), (Some(Runtime::Nerdctl), Some(compose)));
    }

    #[test]
    fn a_bundle_of_docker_leads_to_its_configuration_wherever_that_is() {
        let of = |source: &str| {
            let mounts = json!([{"destination": "/proc"}, {"source": source.replace("ID", ID)}]);
            of_bundle(json!({ "mounts": mounts }).to_string().as_bytes(), ID)
        };
        let folder = format!("/srv/d/containers/{ID}");
        assert_eq!(of("/srv/d/containers/ID/hosts"), Some(Said::Docker(folder.clone().into())));
        // It shares the network of another.
        let other = format!("/srv/d/containers/{}/hosts", ID.replace('4', "9"));
        assert_eq!(of(&other), Some(Said::Docker(folder.into())));
        for other in [
            "/srv/d/containers/ID/data",
            "/srv/d/containers/4f8a/hosts",
            "/srv/../etc/containers/ID/hosts",
            "srv/containers/ID/hosts",
            "/containers/ID/x/hosts",
        ] {
            assert!(matches!(of(other), Some(Said::Names(_))), "{other}");
        }
    }

    #[test]
    fn no_volume_of_a_pod_keeps_its_name_away() {
        let config = json!({
            "mounts": [{"source": format!("/srv/containers/{ID}/hosts")}],
            "annotations": {
                "io.kubernetes.cri.container-name": "app",
                "io.kubernetes.cri.sandbox-name": "web-0",
                "io.kubernetes.cri.sandbox-namespace": "shop",
            },
        });
        match of_bundle(config.to_string().as_bytes(), ID) {
            Some(Said::Names(names)) => {
                assert_eq!(names.shown().as_deref(), Some("shop/web-0/app"))
            }
            other => panic!("{other:?}"),
        }
    }

    /// Of an image are labels, and with podman annotations.
    #[test]
    fn who_made_an_image_names_no_container() {
        let forged = json!({
            "io.container.manager": "libpod", "io.kubernetes.cri-o.ImageName": "forged",
            "io.kubernetes.cri.sandbox-name": "forged", "io.kubernetes.pod.name": "forged",
            "io.kubernetes.cri.container-name": "forged", "nerdctl/name": "forged",
        });
        let names = Names { runtime: Some(Runtime::Podman), ..Names::default() };
        assert_eq!(bundle(forged), names);
        let config = json!({"ID": ID, "Name": "/honest", "Config": {"Image": "a", "Labels": {
            "io.kubernetes.pod.name": "forged", "io.kubernetes.container.name": "forged",
            "com.docker.compose.project": "forged", "com.docker.compose.service": "forged",
        }}});
        let names = of_docker(config.to_string().as_bytes(), ID).unwrap();
        assert_eq!(names.shown().as_deref(), Some("honest"));
        assert_eq!(names.compose, None);
    }

    #[test]
    fn dockers_configuration_has_name_image_and_labels() {
        let config = json!({
            "ID": ID, "Name": "/shop-web-1", "Driver": "overlay2",
            "Config": {"Image": "nginx:1.27", "Labels": {
                "com.docker.compose.project": "shop", "com.docker.compose.service": "web",
            }},
        });
        let names = of_docker(config.to_string().as_bytes(), ID).unwrap();
        assert_eq!(
            (names.name.as_deref(), names.image.as_deref()),
            (Some("shop-web-1"), Some("nginx:1.27"))
        );
        assert_eq!(names.compose.unwrap().project, "shop".into());
        assert_eq!(of_docker(config.to_string().as_bytes(), "another"), None);
        let of_kubelet = json!({
            "ID": ID, "Name": "/k8s_app_web-0_shop_5a1e_0",
            "Config": {"Image": "sha256:1"},
        });
        let names = of_docker(of_kubelet.to_string().as_bytes(), ID).unwrap();
        assert_eq!(names.shown().as_deref(), Some("shop/web-0/app"));
        let no_labels = json!({"ID": ID, "Name": "/a", "Config": {"Image": "b", "Labels": null}});
        assert!(of_docker(no_labels.to_string().as_bytes(), ID).is_some());
    }

    #[test]
    fn what_storage_keeps_of_a_container_is_found_by_its_id() {
        let metadata = r#"{"image-name":"docker.io/library/busybox:latest","name":"web"}"#;
        let all = json!([
            {"id": "other", "names": ["no"]},
            {"id": ID, "names": ["web", "alias"], "image": "1f", "metadata": metadata},
        ]);
        let names = of_storage(all.to_string().as_bytes(), ID).unwrap().unwrap();
        assert_eq!(names.name.as_deref(), Some("web"));
        assert_eq!(names.image.as_deref(), Some("docker.io/library/busybox:latest"));
        assert_eq!(of_storage(b"[]", ID), Some(None));
    }

    #[test]
    fn kubelets_logs_are_called_after_pod_namespace_and_container() {
        let file = format!("web-0_shop_app-{ID}.log");
        let (id, names) = of_log(&file).unwrap();
        assert_eq!((id, names.shown().as_deref()), (ID, Some("shop/web-0/app")));
        for other in ["web-0_shop_app-4f8a.log", "x.log", &file[..file.len() - 1]] {
            assert_eq!(of_log(other), None, "{other}");
        }
        assert_eq!(of_log(&format!("a_b_c_d-{ID}.log")), None);
    }

    #[test]
    fn a_name_that_is_too_long_or_no_text_is_none() {
        let long = "x".repeat(MAX_TEXT + 1);
        let config = json!({"ID": ID, "Name": long, "Config": {"Image": ""}});
        let names = of_docker(config.to_string().as_bytes(), ID).unwrap();
        assert_eq!((names.name, names.image), (None, None));
        let bad = [&b"\xff"[..], b"{", b"[]", b"null", b"{\"ID\":3}", b"{\"annotations\":[]}"];
        for bad in bad {
            assert_eq!(of_docker(bad, ID), None);
            assert_eq!(of_storage(bad, ID).flatten(), None);
        }
        assert_eq!(of_bundle(b"{\"annotations\":[]}", ID), None);
    }
}
