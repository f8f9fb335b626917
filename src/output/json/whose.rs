// SPDX-License-Identifier: Apache-2.0
//! What a line says of the process behind it. Many lines say the same, so whoever reads them may
//! keep it.

use std::rc::Rc;

use super::container::written;
use super::fields::Fields;
use super::read::Read;
use super::read::ReadError;
use crate::model::container::Container;
use crate::model::event::Connect;
use crate::model::process::Comm;
use crate::model::process::ProcessFacts;
use crate::model::process::ProcessKey;
use crate::model::row::OwnedRow;

#[derive(Clone, Debug)]
pub(in crate::output) struct Whose {
    pub(super) name: Comm,
    pub(super) key: Option<ProcessKey>,
    /// When its host booted, nanoseconds since 1970.
    pub(super) booted_ns: Option<u64>,
    pub(super) process: Option<Rc<ProcessFacts>>,
    pub(super) user: Option<Rc<str>>,
    pub(super) container: Option<Container>,
    pub(super) cgroup: Option<Rc<str>>,
    pub(super) unit: Option<Rc<str>>,
}

impl Whose {
    /// A row of it.
    pub(super) fn row(self, connect: Connect) -> OwnedRow {
        OwnedRow {
            connect,
            life: None,
            peer: None,
            process: self.process,
            user: self.user,
            container: self.container,
            cgroup: self.cgroup,
            unit: self.unit,
            query: None,
        }
    }
}

impl Fields<'_> {
    pub(in crate::output) fn whose(&self) -> Read<Whose> {
        Ok(Whose {
            name: self.name()?,
            key: self.process_key()?,
            booted_ns: self.booted_at()?,
            process: self.facts()?.map(Rc::new),
            user: self.user.as_deref().map(Into::into),
            container: written!(self).container().map_err(ReadError::Field)?,
            cgroup: self.cgroup.as_deref().map(Into::into),
            unit: self.unit.as_deref().map(Into::into),
        })
    }
}
