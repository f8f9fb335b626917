// SPDX-License-Identifier: Apache-2.0
//! What did not reach the output, and why.

/// Events that did not reach the output, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// No room in the buffer.
    pub buffer: u64,
    /// Their users had too much in the ring.
    pub crowded: u64,
    /// The one of these who was refused most often.
    pub crowder: Option<u32>,
    /// On a CPU whose perf buffer was not there yet.
    pub cpu: u64,
    /// Programs that the kernel skipped.
    pub skipped: u64,
    /// No room to keep a call between two hooks, or a return that was missed.
    pub stash: u64,
    /// Connects of flows that had no room in the table of `-c`.
    pub flows: u64,
    /// Descendants that could not be followed; not part of the total, for
    /// nobody knows how many connects they made.
    pub family: u64,
    /// Records of processes and cgroups; not part of the total either: they are
    /// no connects, but the rows of those processes say less.
    pub process: u64,
    /// Pieces of DNS messages; not part of the total either.
    pub names: u64,
    /// Records of connects, accepts and ends that are no rows, but rows are joined to them; not
    /// part of the total either.
    pub joins: u64,
    /// Connections that were forgotten before they ended, because a table was full.
    pub lives: u64,
    /// Connections whose end the kernel did not report.
    pub ends: u64,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// Rows that could not be written: the disk was full, or nobody read them at the end.
    pub output: u64,
}

impl Lost {
    pub fn total(&self) -> u64 {
        // Lines of --read can say any number.
        self.reasons().iter().fold(0, |sum: u64, (count, ..)| sum.saturating_add(*count))
    }

    /// What was lost since an earlier reading.
    pub fn since(&self, earlier: &Lost) -> Lost {
        Lost {
            buffer: self.buffer - earlier.buffer,
            crowded: self.crowded - earlier.crowded,
            crowder: self.crowder.filter(|_| self.crowded > earlier.crowded),
            cpu: self.cpu - earlier.cpu,
            skipped: self.skipped - earlier.skipped,
            stash: self.stash - earlier.stash,
            flows: self.flows - earlier.flows,
            family: self.family - earlier.family,
            process: self.process - earlier.process,
            names: self.names - earlier.names,
            joins: self.joins - earlier.joins,
            lives: self.lives - earlier.lives,
            ends: self.ends - earlier.ends,
            undecodable: self.undecodable - earlier.undecodable,
            output: self.output - earlier.output,
        }
    }

    /// Count, JSON name and words of each reason.
    pub fn reasons(&self) -> [(u64, &'static str, &'static str); 10] {
        [
            (self.buffer, "buffer", "because the buffer was full (see --buffer-size)"),
            (self.crowded, "crowded", "of users who filled the buffer, to leave room for others"),
            (
                self.cpu,
                "cpu",
                "on CPUs that had just come online (--buffer ring needs no CPU's own)",
            ),
            (
                self.skipped,
                "skipped",
                "skipped by the kernel (with cgroup v2 --attach sockops misses no connect)",
            ),
            (self.stash, "stash", "whose return was missed (--attach sockops needs none)"),
            (self.flows, "flows", "of flows beyond the table's size (narrow the filters)"),
            (self.lives, "lives", "of connections too many at once (see --max-connections)"),
            (self.ends, "ends", "of connections whose end the kernel did not report"),
            (self.undecodable, "undecodable", "not understood"),
            (self.output, "output", "that the output had no room for"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Lost = Lost {
        buffer: 1,
        crowded: 1024,
        crowder: Some(7),
        cpu: 2048,
        skipped: 2,
        stash: 4,
        flows: 8,
        family: 16,
        process: 64,
        names: 256,
        joins: 8192,
        lives: 128,
        ends: 4096,
        undecodable: 32,
        output: 512,
    };

    #[test]
    fn descendants_not_followed_are_no_part_of_the_total() {
        assert_eq!(LOST.total(), 1 + 2 + 4 + 8 + 32 + 128 + 512 + 1024 + 2048 + 4096);
    }

    #[test]
    fn only_what_is_new_is_reported() {
        assert_eq!(LOST.since(&LOST), Lost::default());
        assert_eq!(LOST.since(&Lost::default()), LOST);
        let later = Lost { buffer: 5, ..LOST };
        assert_eq!(later.since(&LOST), Lost { buffer: 4, ..Lost::default() });
    }

    #[test]
    fn each_reason_has_a_name_of_its_own() {
        let names = LOST.reasons().map(|(_, name, _)| name);
        assert_eq!(
            names,
            [
                "buffer",
                "crowded",
                "cpu",
                "skipped",
                "stash",
                "flows",
                "lives",
                "ends",
                "undecodable",
                "output"
            ]
        );
    }
}
