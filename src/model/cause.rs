// SPDX-License-Identifier: Apache-2.0
//! Why something cannot be had on a host, or gives less there, by the name that scripts know it by.

macro_rules! causes {
    ($($(#[$doc:meta])* $cause:ident = $name:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause {
            $($(#[$doc])* $cause,)*
        }

        impl Cause {
            pub const ALL: &[Cause] = &[$(Cause::$cause),*];

            /// It never changes.
            pub fn name(self) -> &'static str {
                match self {
                    $(Cause::$cause => $name,)*
                }
            }
        }
    };
}

causes! {
    /// Those without which no BPF program is loaded.
    Capabilities = "capabilities",
    UserNamespace = "user-namespace",
    PidNamespace = "pid-namespace",
    TimeNamespace = "time-namespace",
    OldKernel = "old-kernel",
    NoBtf = "no-btf",
    BadBtf = "bad-btf",
    /// The kernel's own.
    OwnBtf = "own-btf",
    NoHook = "no-hook",
    Lockdown = "lockdown",
    LockedMemory = "locked-memory",
    NetAdmin = "net-admin",
    Trampolines = "trampolines",
    Kprobes = "kprobes",
    PerfEventParanoid = "perf-event-paranoid",
    /// Programs on one function.
    FullFunction = "full-function",
    /// Programs of a kind on one cgroup.
    FullCgroup = "full-cgroup",
    FailedConnects = "failed-connects",
    /// In the kernel's words.
    Refused = "refused",
    NoCgroups = "no-cgroups",
    PartOfCgroups = "part-of-cgroups",
    NoIpv6 = "no-ipv6",
    Tracefs = "tracefs",
    NoRing = "no-ring",
    BadBuffer = "bad-buffer",
    /// What io_uring accepts.
    IoUring = "io-uring",
    BadMap = "bad-map",
    BadCgroup = "bad-cgroup",
    BadNetns = "bad-netns",
    TooManyNames = "too-many-names",
    /// Nothing is called so yet.
    Awaited = "awaited",
    /// It is called so, but others than root have called it so.
    Claimed = "claimed",
    Ptrace = "ptrace",
    DacReadSearch = "dac-read-search",
    Unseen = "unseen",
    NoLandlock = "no-landlock",
    NotConfined = "not-confined",
    Output = "output",
    Record = "record",
    Past = "past",
    Command = "command",
    ReadyFd = "ready-fd",
    /// Everybody may run it with the rights of its file.
    LentToAll = "lent-to-all",
    /// What was seen of a connect of its own is not what it did.
    WrongRow = "wrong-row",
    /// Something else is in the way.
    NotTried = "not-tried",
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_cause_has_a_name_of_its_own() {
        let names: HashSet<_> = Cause::ALL.iter().map(|cause| cause.name()).collect();
        assert_eq!(names.len(), Cause::ALL.len());
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(names.iter().all(|name| name.chars().all(plain)));
    }
}
