// SPDX-License-Identifier: Apache-2.0
//! The BPF maps that a process has open, by bpftool. Knows nothing of what is in them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

/// Ids of maps by name.
pub struct Maps(BTreeMap<String, String>);

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

impl Maps {
    pub fn of(pid: u32) -> Self {
        let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("it runs");
        let infos = infos.filter_map(|info| fs::read_to_string(info.ok()?.path()).ok());
        let id_of = |info: String| {
            Some(info.lines().find_map(|l| l.strip_prefix("map_id:"))?.trim().to_owned())
        };
        let ids: BTreeSet<_> = infos.filter_map(id_of).collect();
        let name_of =
            |id: &String| bpftool(&["map", "show", "id", id])["name"].as_str().map(str::to_owned);
        Maps(ids.iter().filter_map(|id| Some((name_of(id)?, id.clone()))).collect())
    }

    /// What is in a map; `None` if the process has none of this name.
    pub fn entries(&self, name: &str) -> Option<Vec<Entry>> {
        let entries = bpftool(&["map", "dump", "id", self.0.get(name)?]);
        let byte = |v: &Value| u8::from_str_radix(v.as_str()?.strip_prefix("0x")?, 16).ok();
        let bytes = |v: &Value| v.as_array().into_iter().flatten().filter_map(byte).collect();
        let entries = entries.as_array().into_iter().flatten();
        Some(entries.map(|entry| (bytes(&entry["key"]), bytes(&entry["value"]))).collect())
    }
}

fn bpftool(args: &[&str]) -> Value {
    let output = Command::new("bpftool").arg("-j").args(args).output().expect("bpftool runs");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}
