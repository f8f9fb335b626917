// SPDX-License-Identifier: Apache-2.0
//! Whether a row is wanted by the cgroup of its process, where the kernel does not say: it knows
//! the names of directories and not what people call a container, and nothing of connections that
//! were there before.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::HashSet;
use std::rc::Rc;

use super::cgroup;
use super::cgroup::Cgroups;
use super::cgroup::V1Container;
use super::container_names::ContainerNames;
use crate::error::StartError;
use crate::model::container;
use crate::model::container::Pattern;
use crate::model::container::is_full_id;
use crate::model::filter::Filter;

/// Cgroups of which it is known where they are: a user can make the way up 2,000 directories long.
const MAX_PLACES: usize = 16_384;

pub struct Wanted {
    filter: Filter,
    listed: HashSet<u64>,
    patterns: Vec<Pattern>,
    /// What people call containers decides.
    by_name: bool,
    /// No directory changes its name, or what it is in.
    places: RefCell<HashMap<u64, Rc<Place>>>,
}

/// What the directories from one up to the root say.
struct Place {
    is_listed: bool,
    /// One of them has a wanted name.
    is_called: bool,
    /// Its id, and by whose word.
    container: Option<(Box<str>, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Wanted,
    /// The process is in another container.
    Unwanted,
    /// It is in none of version 2.
    Outside,
}

impl Wanted {
    pub fn new(filter: &Filter) -> Result<Self, StartError> {
        let listed =
            filter.cgroups.iter().map(|path| cgroup::id(path)).collect::<Result<_, _>>()?;
        let (by_name, filter) = (filter.by_name(), filter.clone());
        let (patterns, places) = (filter.patterns(), RefCell::default());
        Ok(Wanted { listed, patterns, by_name, filter, places })
    }

    /// Of a process in this cgroup; `None` if it is not known where that is.
    pub fn has(
        &self,
        cgroups: &Cgroups,
        names: Option<&ContainerNames>,
        id: u64,
    ) -> Option<Verdict> {
        let place = self.place(cgroups, id)?;
        Some(match &place.container {
            _ if place.is_listed || place.is_called => Verdict::Wanted,
            None => Verdict::Outside,
            Some((id, owner)) if self.has_container(names, id, *owner) => Verdict::Wanted,
            Some(_) => Verdict::Unwanted,
        })
    }

    fn place(&self, cgroups: &Cgroups, id: u64) -> Option<Rc<Place>> {
        if let Some(place) = self.places.borrow().get(&id) {
            return Some(Rc::clone(place));
        }
        let mut ids = cgroups.ids_up_from(id)?;
        ids.reverse();
        let found = |(at, id): (usize, &u64)| {
            let (name, owner) = cgroups.name(*id)?;
            Some((at, container::id_of_directory(name)?, owner))
        };
        // Who is in a container can make directories of any name in it, so the outermost counts;
        // of those that root made, if there are any.
        let mut containers = ids.iter().enumerate().filter_map(found);
        let of_root = containers.clone().find(|(.., owner)| *owner == 0);
        let container = of_root.or_else(|| containers.next()).filter(|_| self.by_name);
        let above = container.map_or(ids.len(), |(at, ..)| at + 1);
        let is_called = |id: &u64| cgroups.name(*id).is_some_and(|(name, by)| self.calls(name, by));
        let is_listed = ids.iter().any(|id| self.listed.contains(id));
        let is_called = ids[..above].iter().any(is_called);
        let container = container.map(|(_, id, owner)| (id.into(), owner));
        let place = Rc::new(Place { is_listed, is_called, container });
        let mut places = self.places.borrow_mut();
        if places.len() >= MAX_PLACES {
            places.clear();
        }
        places.insert(id, Rc::clone(&place));
        Some(place)
    }

    /// Of a process in a container of version 1.
    pub fn has_of_v1(&self, names: Option<&ContainerNames>, found: &V1Container) -> bool {
        let id = &*found.outermost;
        let is_called =
            |pattern: &Pattern| (pattern.whole || is_full_id(id)) && pattern.matches(id.as_bytes());
        self.patterns.iter().any(is_called)
            || !found.container.claimed && self.has_container(names, id, 0)
    }

    /// Whether a process in a new directory of root's may be wanted for its name.
    pub fn may_be_in(&self, name: &[u8]) -> bool {
        self.by_name && container::id_of_directory(name).is_some() || self.calls(name, 0)
    }

    /// Whether any is there, but for those that are listed.
    pub fn is_there(&self, cgroups: Option<&Cgroups>, names: Option<&ContainerNames>) -> bool {
        let mut named = names.into_iter().flat_map(ContainerNames::all_of_root);
        let is_one = |cgroups: &Cgroups, id| {
            self.place(cgroups, id).is_some_and(|place| {
                let container = place.container.as_ref();
                let is_it = |(id, owner): &(Box<str>, u32)| self.has_container(names, id, *owner);
                place.is_called || container.is_some_and(is_it)
            })
        };
        let has_one = |cgroups: &Cgroups| cgroups.ids().any(|id| is_one(cgroups, id));
        named.any(|names| self.filter.wants_names(names)) || cgroups.is_some_and(has_one)
    }

    /// What was asked for.
    pub fn names(&self) -> String {
        self.filter.names()
    }

    /// By a name, directories of users count only as containers that are called so. An id is that
    /// of a container.
    fn calls(&self, name: &[u8], owner: u32) -> bool {
        let is_container = container::id_of_directory(name).is_some_and(is_full_id);
        let may_count = |pattern: &&Pattern| match owner {
            _ if !pattern.whole => is_container,
            0 => true,
            _ => !self.by_name && pattern.room > 0,
        };
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
