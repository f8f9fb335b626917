// SPDX-License-Identifier: Apache-2.0
//! What is attached: each hook in turn, and what runs beside the one that a trace would use.

use super::Finding;
use super::Severity;
use super::machine;
use crate::config::Config;
use crate::config::cli::Buffer;
use crate::error::StartError;
use crate::error::text_of;
use crate::host::cgroup;
use crate::kernel::attached::Attached;
use crate::kernel::attached::Note;
use crate::kernel::trial;
use crate::kernel::trial::Trial;
use crate::kernel::trial::Trials;
use crate::model::cause::Cause;
use crate::plan::Hook;
use crate::plan::Plan;

#[derive(Default)]
pub struct Hooks {
    pub found: Vec<Finding>,
    pub used: Option<Attached>,
}

/// Without the capabilities.
pub fn untried() -> Hooks {
    let what = "no hook was tried, for want of the capabilities";
    let finding = Finding::new("hook", Severity::Unknown, Cause::NotTried, what);
    Hooks { found: vec![finding], used: None }
}

pub fn look(config: &Config, plan: &Plan) -> Hooks {
    let command = (!config.command.is_empty()).then(std::process::id);
    let trials = match trial::trials(config, plan, command) {
        Ok(trials) => trials,
        Err(e) => return Hooks { found: vec![failure("hook", &e)], used: None },
    };
    let used = trials.used().cloned();
    let mut found: Vec<_> = trials.tried.iter().map(|trial| tried(trial, used.as_ref())).collect();
    found.push(chosen(&trials));
    found.extend(places(plan));
    if let Some(used) = &used {
        found.extend(used.notes.iter().map(noted));
        found.extend(accepts(used));
        found.extend(buffer(config, used));
        found.extend(names(plan, used));
    }
    Hooks { found, used }
}

/// `id` is what it is about if nothing more is known of it.
pub fn failure(id: &'static str, error: &anyhow::Error) -> Finding {
    match error.downcast_ref::<StartError>() {
        // The line of the BTF has it.
        Some(StartError::NoBtf | StartError::BadBtf(..)) => {
            let what = "no hook was tried, for want of BTF";
            Finding::new("hook", Severity::Unknown, Cause::NotTried, what)
        }
        Some(error) => machine::failed(error),
        None => Finding::new(id, Severity::Fail, Cause::Refused, format!("{error:#}")),
    }
}

fn id(hook: Hook) -> &'static str {
    match hook {
        Hook::Fentry => "hook.fentry",
        Hook::Kprobe => "hook.kprobe",
        Hook::Sockops | Hook::StateOnly => "hook.sockops",
        Hook::Processes => "hook.processes",
    }
}

fn tried(trial: &Trial, used: Option<&Attached>) -> Finding {
    let id = id(trial.hook);
    match &trial.outcome {
        Ok(attached) => {
            let ms = trial.took.as_millis();
            Finding::ok(id, format!("{} in {ms} ms, and detached", attached.programs()))
        }
        Err(refusal) => {
            let is_needed = trial.is_asked && used.is_none();
            let severity = if is_needed { Severity::Fail } else { Severity::Note };
            Finding::new(id, severity, refusal.cause, &*refusal.why)
        }
    }
}

fn chosen(trials: &Trials) -> Finding {
    match (trials.used(), &trials.failure) {
        (Some(used), _) => {
            Finding::ok("hook", format!("{} is used, {}", used.hook.name(), used.types()))
        }
        (None, Some(failure)) => machine::failed(failure),
        (None, None) => Finding::new("hook", Severity::Fail, Cause::Refused, "none was tried"),
    }
}

/// What the hook gives less.
fn noted(note: &Note) -> Finding {
    let (id, severity) = match note {
        Note::NoIpv6(_) => ("hook.ipv6", Severity::Note),
        Note::OnlyTasksBelow => ("tasks", Severity::Less),
        Note::OnlyAnswersBelow => ("names", Severity::Less),
        Note::NoLport => ("lport", Severity::Less),
        Note::Awaited(_) => ("filters", Severity::Note),
        Note::Claimed(_) => ("filters", Severity::Less),
    };
    Finding::new(id, severity, note.cause(), note.words())
}

fn accepts(used: &Attached) -> Option<Finding> {
    let what = used.accepts()?;
    Some(match used.sees_all_accepts() {
        true => Finding::ok("accepts", what),
        false => Finding::new("accepts", Severity::Less, Cause::IoUring, what),
    })
}

fn buffer(config: &Config, used: &Attached) -> Option<Finding> {
    let what = used.buffer()?;
    Some(match used.is_ring() || config.buffer == Buffer::Perf {
        true => Finding::ok("buffer", what),
        false => Finding::new("buffer", Severity::Less, Cause::NoRing, what),
    })
}

fn names(plan: &Plan, used: &Attached) -> Option<Finding> {
    let is_whole = !used.notes.contains(&Note::OnlyAnswersBelow);
    (plan.names && is_whole).then(|| Finding::ok("names", "messages of port 53 are seen"))
}

/// Of the root, where programs of sockops and of messages are attached.
fn places(plan: &Plan) -> Option<Finding> {
    let mount = cgroup::mount()?;
    let taken = match trial::taken(&mount, plan.names) {
        Ok(taken) => taken,
        Err(e) => {
            let why = text_of(&e);
            let what = format!("the programs on the root cgroup may not be asked for ({why})");
            return Some(Finding::new("hook.places", Severity::Note, Cause::NotTried, what));
        }
    };
    let names = match taken.names.as_slice() {
        [] => String::new(),
        names => format!(" ({})", names.join(", ")),
    };
    let what = format!(
        "{} of {} places for programs of a kind are taken{names}",
        taken.count,
        trial::PLACES
    );
    Some(match taken.count < trial::PLACES {
        true => Finding::ok("hook.places", what),
        false => Finding::new("hook.places", Severity::Note, Cause::FullCgroup, what),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_note_of_a_hook_has_a_line() {
        let text = || String::from("x");
        for note in [
            Note::NoIpv6(text()),
            Note::OnlyTasksBelow,
            Note::OnlyAnswersBelow,
            Note::NoLport,
            Note::Awaited(text()),
            Note::Claimed(text()),
        ] {
            let finding = noted(&note);
            assert_eq!((finding.cause, finding.what), (Some(note.cause()), note.words()));
            assert!(finding.severity > Severity::Ok);
        }
    }
}
