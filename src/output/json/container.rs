// SPDX-License-Identifier: Apache-2.0
//! The container of a process, behind a row or on the other end of its connection.

use std::borrow::Cow;
use std::rc::Rc;

use serde::Serialize;

use super::bound;
use super::process::Cuts;
use super::process::is_false;
use crate::model::container::Compose;
use crate::model::container::Container;
use crate::model::container::NameSource;
use crate::model::container::Names;
use crate::model::container::Pod;
use crate::model::container::Runtime;

/// Paths in the object, by which it is said what was cut.
pub(super) struct Paths {
    id: &'static str,
    name: &'static str,
    image: &'static str,
    pod: &'static str,
    namespace: &'static str,
    uid: &'static str,
    project: &'static str,
    service: &'static str,
}

/// Of the process behind a row.
pub(super) const OWN: Paths = Paths {
    id: "container_id",
    name: "container_name",
    image: "container_image",
    pod: "pod",
    namespace: "pod_namespace",
    uid: "pod_uid",
    project: "compose_project",
    service: "compose_service",
};
/// Of the one on the other end.
pub(super) const PEERS: Paths = Paths {
    id: "peer.container_id",
    name: "peer.container_name",
    image: "peer.container_image",
    pod: "peer.pod",
    namespace: "peer.pod_namespace",
    uid: "peer.pod_uid",
    project: "peer.compose_project",
    service: "peer.compose_service",
};

#[derive(Default, Serialize)]
pub(in crate::output) struct ContainerFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    container_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "is_false")]
    container_claimed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_image: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_namespace: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_uid: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compose_project: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compose_service: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_runtime: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_name_source: Option<&'static str>,
}

impl<'a> ContainerFields<'a> {
    pub(super) fn of(container: Option<&'a Container>, paths: Paths, cuts: &mut Cuts) -> Self {
        let Some(container) = container else { return Self::default() };
        let id = cuts.head(paths.id, Some(&*container.id), bound::NAME);
        let own = ContainerFields {
            container_id: id,
            container_claimed: container.claimed,
            ..Self::default()
        };
        let Some(names) = container.names.as_deref() else { return own };
        let (pod, compose) = (names.pod.as_ref(), names.compose.as_ref());
        let mut text = |path, text: Option<&'a str>| cuts.head(path, text, bound::CONTAINER);
        ContainerFields {
            container_name: text(paths.name, names.name.as_deref()),
            container_image: text(paths.image, names.image.as_deref()),
            pod: text(paths.pod, pod.map(|pod| &*pod.name)),
            pod_namespace: text(paths.namespace, pod.and_then(|pod| pod.namespace.as_deref())),
            pod_uid: text(paths.uid, pod.and_then(|pod| pod.uid.as_deref())),
            compose_project: text(paths.project, compose.map(|compose| &*compose.project)),
            compose_service: text(paths.service, compose.and_then(|c| c.service.as_deref())),
            container_runtime: names.runtime.map(|runtime| runtime.name()),
            container_name_source: Some(names.source.name()),
            ..own
        }
    }
}

/// The same as they stand in a line, of a process or a peer.
pub(super) struct Written<'a> {
    pub(super) id: Option<&'a str>,
    pub(super) claimed: bool,
    pub(super) name: Option<&'a str>,
    pub(super) image: Option<&'a str>,
    pub(super) pod: Option<&'a str>,
    pub(super) namespace: Option<&'a str>,
    pub(super) uid: Option<&'a str>,
    pub(super) project: Option<&'a str>,
    pub(super) service: Option<&'a str>,
    pub(super) runtime: Option<&'a str>,
    pub(super) source: Option<&'a str>,
}

/// Of two structs with the same fields.
macro_rules! written {
    ($fields:expr) => {
        $crate::output::json::container::Written {
            id: $fields.container_id.as_deref(),
            claimed: $fields.container_claimed == Some(true),
            name: $fields.container_name.as_deref(),
            image: $fields.container_image.as_deref(),
            pod: $fields.pod.as_deref(),
            namespace: $fields.pod_namespace.as_deref(),
            uid: $fields.pod_uid.as_deref(),
            project: $fields.compose_project.as_deref(),
            service: $fields.compose_service.as_deref(),
            runtime: $fields.container_runtime.as_deref(),
            source: $fields.container_name_source.as_deref(),
        }
    };
}
pub(super) use written;

impl Written<'_> {
    /// `None`: there is none. The error is the field that is not understood.
    pub(super) fn container(&self) -> Result<Option<Container>, &'static str> {
        let Some(id) = self.id else { return Ok(None) };
        let names = self.source.map(|source| self.names(source)).transpose()?;
        Ok(Some(Container { names: names.map(Rc::new), ..Container::new(id, self.claimed) }))
    }

    fn names(&self, source: &str) -> Result<Names, &'static str> {
        let text = |text: Option<&str>| text.map(Box::<str>::from);
        let (namespace, uid) = (text(self.namespace), text(self.uid));
        let service = text(self.service);
        let known = |name: &str| Runtime::ALL.into_iter().find(|known| known.name() == name);
        let source = NameSource::ALL.into_iter().find(|known| known.name() == source);
        let runtime = self.runtime.map(|name| known(name).ok_or("container_runtime"));
        Ok(Names {
            name: text(self.name),
            image: text(self.image),
            pod: text(self.pod).map(|name| Pod { name, namespace, uid }),
            compose: text(self.project).map(|project| Compose { project, service }),
            runtime: runtime.transpose()?,
            source: source.ok_or("container_name_source")?,
        })
    }
}
