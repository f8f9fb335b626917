// SPDX-License-Identifier: Apache-2.0
//! The table, read as if it were JSON.

use serde_json::Value;
use serde_json::json;

use super::options::Options;

/// What its header says.
#[derive(Default)]
pub struct Table {
    columns: Vec<String>,
}

impl Table {
    /// A line of it, unless that is the header.
    pub fn row(&mut self, line: &str, options: &Options) -> Option<Value> {
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if words.iter().any(|word| word == "DADDR") {
            self.columns = words;
            return None;
        }
        // A name may have blanks in it, and nobody's is empty; all else is one word.
        let name = self.columns.iter().position(|column| column == "COMM")?;
        if words.len() < self.columns.len() {
            words.insert(name, "-".into());
        }
        let more = words.len().checked_sub(self.columns.len())?;
        let whole = words.drain(name..=name + more).collect::<Vec<_>>().join(" ");
        words.insert(name, whole);
        let mut row = json!({});
        for (column, text) in self.columns.iter().zip(&words) {
            let value = match text.parse::<u64>() {
                _ if text == "-" => Value::Null,
                Ok(number) => json!(number),
                Err(_) => json!(text),
            };
            let field = match &**column {
                "LPORT" => "lport",
                "RESULT" => "result",
                "NETNS" => "netns",
                "T" => "event",
                other => &other.to_lowercase(),
            };
            row[field] = value;
        }
        row["event"] = match row["event"].as_str() {
            Some("A") => json!("accept"),
            Some("E") => json!("existing"),
            Some("X") => json!("close"),
            // What has an outcome or an end went out.
            _ if !row["err"].is_null() && row["result"].is_null() && row["ms"].is_null() => {
                json!("connect")
            }
            // Without T the end has a duration, and the outcome none.
            None if options.life && !row["ms"].is_null() => json!("close"),
            _ if options.result => json!("result"),
            _ => json!("connect"),
        };
        Some(row)
    }
}
