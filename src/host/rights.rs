// SPDX-License-Identifier: Apache-2.0
//! What this process gives up once it traces. Whatever hostile bytes it reads from then
//! on, a fault in reading them is worth what is left.

use std::io;
use std::os::fd::AsFd;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use rustix::process::DumpableBehavior;
use rustix::process::set_dumpable_behavior;
use rustix::thread::CapabilitySet;
use rustix::thread::CapabilitySets;
use rustix::thread::capabilities;
use rustix::thread::set_capabilities;
use rustix::thread::set_no_new_privs;

use crate::error::warn;
use crate::host::privilege;
use crate::host::sandbox;
use crate::host::sandbox::InForce;
use crate::model::needs::Needs;

/// Who has CAP_SYS_ADMIN alone does with it what CAP_BPF and CAP_PERFMON were made for.
fn kept(permitted: CapabilitySet, mut needed: CapabilitySet) -> CapabilitySet {
    let made_for = CapabilitySet::BPF | CapabilitySet::PERFMON;
    if !permitted.contains(needed & made_for) {
        needed |= CapabilitySet::SYS_ADMIN;
    }
    permitted & needed
}

/// Of the calling thread, and of those that it starts from now on. No program that is run
/// from there gains new ones, whoever it belongs to.
fn keep(needed: CapabilitySet) -> io::Result<CapabilitySet> {
    set_no_new_privs(true)?;
    let left = kept(capabilities(None)?.permitted, needed);
    let sets =
        CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    Ok(left)
}

/// For a thread that needs nothing. It cannot fail: less is always allowed.
pub fn keep_none() {
    let _ = keep(CapabilitySet::empty());
}

/// For a thread beside the loop, which needs no file either.
pub fn of_a_bystander(is_confined: bool) {
    keep_none();
    if is_confined {
        sandbox::open_no_file();
    }
}

/// For a thread beside the loop that reads the files of others, and changes none.
pub fn of_a_reader() {
    let _ = keep(CapabilitySet::DAC_READ_SEARCH);
    sandbox::write_no_file();
}

/// Those in force, as `capabilities(7)` calls them.
pub fn names(set: CapabilitySet) -> String {
    let names: Vec<_> = set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    names.join(", ")
}

/// What this process may do now.
pub fn held() -> io::Result<CapabilitySet> {
    Ok(capabilities(None)?.effective)
}

/// What this thread reads meanwhile its caller could read, too, whatever rights the program file
/// has lent.
pub fn as_caller<T>(read: impl FnOnce() -> T) -> T {
    let of_files = CapabilitySet::DAC_READ_SEARCH | CapabilitySet::DAC_OVERRIDE;
    let lent = match privilege::are_lent() {
        true => capabilities(None).ok(),
        false => None,
    };
    if let Some(mut sets) = lent {
        sets.effective -= of_files;
        // It cannot fail: less is always allowed, and so is what was there before.
        let _ = set_capabilities(None, sets);
    }
    let done = read();
    if let Some(sets) = lent {
        let _ = set_capabilities(None, sets);
    }
    done
}

/// For the process that records, in this folder.
pub fn of_a_recorder(folder: impl AsFd) {
    keep_none();
    sandbox::stay_below(folder);
}

/// Keeps what is needed from now on, and leaves no core dump. A COMMAND was forked before,
/// so it keeps its rights.
pub fn give_up(needed: CapabilitySet, verbose: &dyn Fn(&str)) -> Result<()> {
    let give_up = || -> io::Result<CapabilitySet> {
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        keep(needed)
    };
    let left = give_up().context("failed to give up privileges")?;
    verbose(&match names(left) {
        none if none.is_empty() => "no capability is left".to_owned(),
        names => format!("capabilities left: {names}"),
    });
    Ok(())
}

/// Confines this process, which has given up what it does not need. If that is not strict,
/// what the kernel cannot do is said, and left.
pub fn confine(needs: Needs, is_strict: bool, verbose: &dyn Fn(&str)) -> Result<()> {
    match confined(needs, is_strict)? {
        Confined { is_confined: true, words, .. } => verbose(&words),
        Confined { words, .. } => warn(&format!("tcpconnect: {words}")),
    }
    Ok(())
}

/// What came of it.
pub struct Confined {
    pub is_confined: bool,
    /// Files were to be kept away, and are not.
    pub lacks_landlock: bool,
    pub words: String,
}

/// As `confine`, and says nothing.
pub fn confined(needs: Needs, is_strict: bool) -> Result<Confined> {
    match sandbox::enter(needs, is_strict) {
        Ok(InForce { lacks_landlock, words }) => {
            Ok(Confined { is_confined: true, lacks_landlock, words: format!("sandbox: {words}") })
        }
        Err(e) if is_strict => bail!("--sandbox strict: {e:#}"),
        Err(e) => {
            let words = format!("not confined: {e:#}; see --sandbox");
            Ok(Confined { is_confined: false, lacks_landlock: true, words })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn what_is_not_held_is_done_with_sys_admin() {
        let (bpf, all) = (CapabilitySet::BPF, CapabilitySet::SYS_ADMIN);
        assert_eq!(kept(bpf | all, bpf), bpf);
        assert_eq!(kept(all, bpf), all);
        assert_eq!(kept(all, CapabilitySet::empty()), CapabilitySet::empty());
        assert_eq!(kept(CapabilitySet::empty(), bpf), CapabilitySet::empty());
    }

    #[test]
    fn what_is_given_up_is_gone_from_the_thread() {
        // A thread of its own, for these rights are those of a thread.
        let seen = std::thread::spawn(|| {
            keep_none();
            (capabilities(None).unwrap(), std::thread::spawn(|| capabilities(None)).join())
        });
        let (own, next) = seen.join().unwrap();
        let none = CapabilitySet::empty();
        assert_eq!((own.permitted, own.effective, own.inheritable), (none, none, none));
        assert_eq!(next.unwrap().unwrap().permitted, none);
    }
}
