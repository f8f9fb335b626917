// SPDX-License-Identifier: Apache-2.0
//! What runtimes write down of a container: in the arguments of their monitors, and in files that
//! are no interface of theirs, so what is not understood is left out. Others choose all of these
//! texts. Opens nothing.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;

use crate::model::container::Compose;
use crate::model::container::NameSource;
use crate::model::container::Names;
use crate::model::container::Pod;
use crate::model::container::Runtime;
use crate::model::container::is_full_id;

/// Bytes of a name that are kept: a longer one is none. An image's has at most 255 for its
/// repository, 128 for its tag and 71 for its digest.
const MAX_TEXT: usize = 512;

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
    let bundle = value(["-b", "--bundle"]).map(|path| PathBuf::from(OsStr::from_bytes(path)));
    let id_of = |id: Option<&[u8]>| Some(std::str::from_utf8(id?).ok().filter(is_id)?.into());
    if program == b"conmon" {
        let name = value(["-n", "--name"]).and_then(|name| text(std::str::from_utf8(name).ok()?));
        return Some(Started { id: id_of(value(["-c", "--cid"]))?, name, bundle });
    }
    if program.starts_with(b"containerd-shim") {
        return Some(Started { id: id_of(value(["-id", "--id"]))?, name: None, bundle: None });
    }
    let makes = |arg: &[u8]| matches!(arg, b"create" | b"run" | b"restore");
    let is_runtime = args.clone().skip(1).any(makes);
    let (id, bundle) = (id_of(args.last())?, bundle.filter(|_| is_runtime)?);
    Some(Started { id, name: None, bundle: Some(bundle) })
}

fn is_id(id: &&str) -> bool {
    is_full_id(id)
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
    /// It is docker's, which keeps names in this file.
    Docker(PathBuf),
}

/// Of a bundle's config.json, `id` being the container's.
pub fn of_bundle(json: &[u8], id: &str) -> Option<Said> {
    let bundle: Bundle = serde_json::from_slice(json).ok()?;
    let mut names = of_labels(&bundle.annotations);
    let has = |prefix: &str| bundle.annotations.keys().any(|key| key.starts_with(prefix));
    let manager = bundle.annotations.get("io.container.manager").map(String::as_str);
    names.runtime = match () {
        () if has("io.kubernetes.cri-o.") => Some(Runtime::CriO),
        () if has("io.kubernetes.cri.") => Some(Runtime::Containerd),
        () if has("nerdctl/") => Some(Runtime::Nerdctl),
        () if manager == Some("libpod") => Some(Runtime::Podman),
        () => None,
    };
    if names.runtime.is_none()
        && let Some(file) = bundle.mounts.iter().find_map(|mount| docker_config(&mount.source, id))
    {
        return Some(Said::Docker(file));
    }
    names.source = NameSource::Bundle;
    Some(Said::Names(names))
}

/// docker lets a container see its hosts, hostname and resolv.conf, which lie beside its
/// configuration wherever the data root is.
fn docker_config(source: &str, id: &str) -> Option<PathBuf> {
    let dir = Path::new(source).parent()?;
    let is_its = dir.ends_with(Path::new("containers").join(id)) && is_plain(dir);
    is_its.then(|| dir.join("config.v2.json"))
}

/// Absolute, without `..`.
pub fn is_plain(path: &Path) -> bool {
    let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    path.is_absolute() && path.components().all(is_plain)
}

/// The annotations of a bundle and docker's labels: kubelet gives the same ones to both.
fn of_labels(labels: &HashMap<String, String>) -> Names {
    let first = |keys: [&str; 2]| keys.iter().find_map(|key| text(labels.get(*key)?));
    let is = |key: &str, value: &str| labels.get(key).is_some_and(|is| is == value);
    // The container that holds a pod's namespaces is not what the pod runs.
    let is_sandbox = is("io.kubernetes.cri.container-type", "sandbox")
        || is("io.kubernetes.cri-o.ContainerType", "sandbox")
        || is("io.kubernetes.docker.type", "podsandbox");
    let name = first(["io.kubernetes.cri.container-name", "io.kubernetes.container.name"])
        .or_else(|| first(["nerdctl/name"; 2]));
    let image = first(["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName"]);
    let pod = first(["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]);
    let namespace = first(["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"]);
    let uid = first(["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"]);
    let project = first(["com.docker.compose.project", "io.podman.compose.project"]);
    let service = first(["com.docker.compose.service", "io.podman.compose.service"]);
    Names {
        name: name.filter(|_| !is_sandbox),
        image: image.filter(|_| !is_sandbox),
        pod: pod.map(|name| Pod { name, namespace, uid }),
        compose: project.map(|project| Compose { project, service }),
        ..Names::default()
    }
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
    let docker: Docker =
        serde_json::from_slice(json).ok().filter(|docker: &Docker| docker.id == id)?;
    let labels = of_labels(&docker.config.labels.unwrap_or_default());
    // What kubelet starts by docker is called k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT there.
    let own = text(docker.name.strip_prefix('/').unwrap_or(&docker.name));
    let (name, image) = match labels.pod {
        Some(_) => (labels.name, labels.image),
        None => (own, None),
    };
    Some(Names {
        name,
        image: image.or_else(|| text(&docker.config.image)),
        runtime: Some(Runtime::Docker),
        source: NameSource::Docker,
        ..labels
    })
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

/// Of such a file: `None` if the container is not in it.
pub fn of_storage(json: &[u8], id: &str) -> Option<Names> {
    let all: Vec<Stored> = serde_json::from_slice(json).ok()?;
    let stored = all.into_iter().find(|stored| stored.id == id)?;
    let metadata: Metadata = serde_json::from_str(&stored.metadata).unwrap_or_default();
    Some(Names {
        name: stored.names.first().and_then(|name| text(name)),
        image: text(&metadata.image_name),
        runtime: Some(Runtime::Podman),
        source: NameSource::Storage,
        ..Names::default()
    })
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
            ("conmon --cid=ID --name=web --bundle=/b", is(Some("web"), Some("/b"))),
            ("/usr/bin/containerd-shim-runc-v2 -namespace moby -id ID -address /a", is(None, None)),
            (
                "runc --root /r --log-format json create --bundle /run/c/moby/ID --pid-file p ID",
                is(None, Some("/run/c/moby/ID")),
            ),
            ("/usr/sbin/crun run -b /b/ID ID", is(None, Some("/b/ID"))),
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
            "io.kubernetes.container.name": "POD",
        }));
        assert_eq!((&names.name, &names.image), (&None, &None));
        assert_eq!(names.shown().as_deref(), Some("shop/web-0"));
    }

    #[test]
    fn nerdctl_and_compose_leave_names_in_annotations() {
        let names = bundle(json!({
            "nerdctl/name": "web", "nerdctl/namespace": "default",
            "com.docker.compose.project": "shop", "com.docker.compose.service": "front",
        }));
        let compose = Compose { project: "shop".into(), service: Some("front".into()) };
        assert_eq!(names.shown().as_deref(), Some("web"));
        assert_eq!((names.runtime, names.compose), (Some(Runtime::Nerdctl), Some(compose)));
    }

    #[test]
    fn a_bundle_of_docker_leads_to_its_configuration_wherever_that_is() {
        let of = |source: &str| {
            let mounts = json!([{"destination": "/proc"}, {"source": source.replace("ID", ID)}]);
            of_bundle(json!({ "mounts": mounts }).to_string().as_bytes(), ID)
        };
        let file = format!("/srv/d/containers/{ID}/config.v2.json");
        assert_eq!(of("/srv/d/containers/ID/hosts"), Some(Said::Docker(file.into())));
        for other in [
            "/srv/d/containers/4f8a/hosts",
            "/srv/../etc/containers/ID/hosts",
            "srv/containers/ID/hosts",
            "/containers/ID/x/hosts",
        ] {
            assert!(matches!(of(other), Some(Said::Names(_))), "{other}");
        }
    }

    #[test]
    fn dockers_configuration_has_name_image_and_labels() {
        let config = json!({
            "ID": ID, "Name": "/web", "Driver": "overlay2",
            "Config": {"Image": "nginx:1.27", "Labels": {"com.docker.compose.project": "shop"}},
        });
        let names = of_docker(config.to_string().as_bytes(), ID).unwrap();
        assert_eq!(
            (names.name.as_deref(), names.image.as_deref()),
            (Some("web"), Some("nginx:1.27"))
        );
        assert_eq!(names.compose.unwrap().project, "shop".into());
        assert_eq!(of_docker(config.to_string().as_bytes(), "another"), None);
        let of_kubelet = json!({
            "ID": ID, "Name": "/k8s_app_web-0_shop_5a1e_0",
            "Config": {"Image": "sha256:1", "Labels": {
                "io.kubernetes.container.name": "app", "io.kubernetes.pod.name": "web-0",
                "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.uid": "5a1e",
            }},
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
        let names = of_storage(all.to_string().as_bytes(), ID).unwrap();
        assert_eq!(names.name.as_deref(), Some("web"));
        assert_eq!(names.image.as_deref(), Some("docker.io/library/busybox:latest"));
        assert_eq!(of_storage(b"[]", ID), None);
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
            assert_eq!(of_storage(bad, ID), None);
        }
        assert_eq!(of_bundle(b"{\"annotations\":[]}", ID), None);
    }
}
