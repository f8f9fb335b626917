// SPDX-License-Identifier: Apache-2.0
//! A container with all that it may be called, for tests of what is shown.

use std::rc::Rc;

use tcpconnect::model::container::Compose;
use tcpconnect::model::container::Container;
use tcpconnect::model::container::NameSource;
use tcpconnect::model::container::Names;
use tcpconnect::model::container::Pod;
use tcpconnect::model::container::Runtime;

/// Each text of it is this.
pub fn called(text: &str, claimed: bool) -> Container {
    let boxed = || Some(Box::from(text));
    let names = Names {
        name: boxed(),
        image: boxed(),
        pod: Some(Pod { name: text.into(), namespace: boxed(), uid: boxed() }),
        compose: Some(Compose { project: text.into(), service: boxed() }),
        runtime: Some(Runtime::Containerd),
        source: NameSource::Bundle,
    };
    Container { names: Some(Rc::new(names)), ..Container::new(text, claimed) }
}
