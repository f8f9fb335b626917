// SPDX-License-Identifier: Apache-2.0
//! Whether a row is wanted by the cgroup of its process, where the kernel does not say: it knows
//! the names of directories and not what people call a container, and nothing of connections that
//! were there before.

use std::collections::HashSet;

use super::cgroup;
use super::cgroup::Cgroups;
use super::container_names::ContainerNames;
use crate::error::StartError;
use crate::model::container;
use crate::model::container::Container;
use crate::model::container::Pattern;
use crate::model::filter::Filter;

pub struct Wanted {
    filter: Filter,
    listed: HashSet<u64>,
    patterns: Vec<Pattern>,
    /// What people call containers decides.
    by_name: bool,
}

impl Wanted {
    pub fn new(filter: &Filter) -> Result<Self, StartError> {
        let listed =
            filter.cgroups.iter().map(|path| cgroup::id(path)).collect::<Result<_, _>>()?;
        let (by_name, filter) = (filter.by_name(), filter.clone());
        // Of any container there is more to ask.
        let patterns = filter.patterns().into_iter().filter(|pattern| !pattern.text.is_empty());
        Ok(Wanted { listed, patterns: patterns.collect(), by_name, filter })
    }

    /// Of a process in this cgroup; `None` if it is not known where that is.
    pub fn has(&self, cgroups: &Cgroups, names: Option<&ContainerNames>, id: u64) -> Option<bool> {
        let ids = cgroups.ids_up_from(id)?;
        let is_called = |id: &u64| cgroups.name(*id).is_some_and(|(name, by)| self.calls(name, by));
        let is_listed = ids.iter().any(|id| self.listed.contains(id) || is_called(id));
        if is_listed || !self.by_name {
            return Some(is_listed);
        }
        // Who is in a container can make directories called after others in it, so the outermost
        // counts; of those that root made, if there are any.
        let found = |id: &u64| {
            let (name, owner) = cgroups.name(*id)?;
            Some((container::id_of_directory(name)?, owner))
        };
        let mut outermost = ids.iter().rev().filter_map(found);
        let of_root = outermost.clone().find(|(_, owner)| *owner == 0);
        let container = of_root.or_else(|| outermost.next());
        Some(container.is_some_and(|(id, owner)| self.has_container(names, id, owner)))
    }

    /// Of a process in a container of version 1; `owner`: by whose word.
    pub fn has_of_v1(
        &self,
        names: Option<&ContainerNames>,
        container: &Container,
        owner: Option<u32>,
    ) -> bool {
        let id = &*container.id;
        self.patterns.iter().any(|pattern| pattern.matches(id.as_bytes()))
            || owner.is_some_and(|owner| self.has_container(names, id, owner))
    }

    /// Whether a process in a new directory of root's may be wanted for its name.
    pub fn may_be_in(&self, name: &[u8]) -> bool {
        self.by_name && container::id_of_directory(name).is_some() || self.calls(name, 0)
    }

    /// Whether any is there.
    pub fn is_there(&self, cgroups: &Cgroups, names: Option<&ContainerNames>) -> bool {
        cgroups.ids().any(|id| self.has(cgroups, names, id) == Some(true))
    }

    /// What was asked for.
    pub fn names(&self) -> String {
        self.filter.names()
    }

    fn calls(&self, name: &[u8], owner: u32) -> bool {
        let may_count = |pattern: &&Pattern| owner == 0 || pattern.room > 0;
        self.patterns.iter().filter(may_count).any(|pattern| pattern.matches(name))
    }

    /// One whose names are awaited may be wanted: a row too many shows, a row too few would not.
    fn has_container(&self, names: Option<&ContainerNames>, id: &str, owner: u32) -> bool {
        let Some(all) = names.filter(|_| self.by_name) else { return false };
        let names = all.of(id, owner);
        if names.as_ref().is_some_and(|names| self.filter.wants_names(names)) {
            return true;
        }
        let tells_enough =
            names.is_some_and(|names| names.name.is_some() && self.filter.pods.is_empty());
        !tells_enough && all.is_awaited(id, owner)
    }
}
