// SPDX-License-Identifier: Apache-2.0
//! Who is whose child, from /proc. Only for processes alive at start: later
//! ones are followed in the kernel.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fs;

/// Every live descendant of these processes; the processes themselves excluded.
pub fn descendants(roots: &[u32]) -> HashSet<u32> {
    closure(roots, &parents())
}

/// Whether a process has this pid now.
pub fn exists(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok()
}

/// Parent of each live process.
fn parents() -> HashMap<u32, u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, parent_in_stat(&stat)?))
    })
    .collect()
}

/// The fourth field; the second is the comm, in parentheses, and may itself
/// hold blanks, parentheses and any other byte.
fn parent_in_stat(stat: &[u8]) -> Option<u32> {
    let end = stat.iter().rposition(|&b| b == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn closure(roots: &[u32], parents: &HashMap<u32, u32>) -> HashSet<u32> {
    let mut found = HashSet::new();
    for &pid in parents.keys() {
        let mut chain = vec![pid];
        let mut at = pid;
        // A chain longer than the table would be a loop; /proc is not read at one instant.
        while let Some(&parent) = parents.get(&at)
            && chain.len() <= parents.len()
        {
            if roots.contains(&parent) || found.contains(&parent) {
                found.extend(chain);
                break;
            }
            chain.push(parent);
            at = parent;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comm_with_parentheses_does_not_hide_the_parent() {
        assert_eq!(parent_in_stat(b"7 (a) R 9 (\xff) S 42 7 7 0"), Some(42));
        assert_eq!(parent_in_stat(b"7 (cat"), None);
    }

    #[test]
    fn descendants_of_any_depth_are_found_and_strangers_are_not() {
        let parents = HashMap::from([(1, 0), (10, 1), (11, 10), (12, 11), (20, 1)]);
        assert_eq!(closure(&[10], &parents), HashSet::from([11, 12]));
    }

    #[test]
    fn a_loop_ends() {
        let parents = HashMap::from([(5, 6), (6, 5)]);
        assert_eq!(closure(&[10], &parents), HashSet::new());
    }
}
