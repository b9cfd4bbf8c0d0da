//! What comes from the control interface, carried out on the main loop one after the other.

use std::time::Instant;

use super::{Full, MachineEnd, Notice, Run};
use crate::api::types::{RunState, Vm};
use crate::command::{Answer, Asked, Command, Refusal, Reply};
use crate::machine::{Machine, pause};
use crate::outcome::End;
use crate::{changes, in_force, statistics};

impl Run<'_> {
    pub(super) fn press_power_button(&mut self, machine: &Machine) -> Reply {
        if machine.is_paused() {
            let reason = "the guest is paused and would not see its power button; resume it first";
            return Err(Refusal::State(reason.to_owned()));
        }
        machine.press_power_button();
        self.notify(Notice::PowerButton);
        Ok(Answer::Done)
    }

    fn pause(&mut self, machine: &mut Machine) -> Reply {
        if machine.is_paused() {
            return Err(Refusal::State("the guest is paused already".to_owned()));
        }
        // A vCPU that waits for a slow reader could not be stopped.
        self.output.set_unbounded(true);
        let paused = machine.pause(self.context.sources);
        self.output.set_unbounded(false);
        paused.map_err(|error| match error {
            pause::Error::Ended => Refusal::State(error.to_string()),
            _ => Refusal::Failed(error.to_string()),
        })?;
        self.notify(Notice::Paused);
        Ok(Answer::Done)
    }

    /// Pauses the guest while there is no room for what it writes.
    pub(super) fn pause_if_full(&mut self, machine: &mut Machine) {
        let Some(folder) = self.room.full().filter(|_| !machine.is_paused()) else { return };
        tracing::warn!(
            "{} is full: the guest is paused; make room, then unpause it",
            folder.display()
        );
        self.notify(Notice::Full(Full::Folder(folder.to_owned())));
        if let Err(refusal) = self.pause(machine) {
            tracing::warn!("it could not be paused: {refusal:?}");
        }
    }

    /// Tells of disks for whose writes there was no room since, if it `is_time` for that.
    pub(super) fn tell_of_full_disks(&mut self, is_time: bool) {
        if !is_time {
            return;
        }
        for (name, path) in self.context.sources.disks().newly_full() {
            tracing::warn!(
                "writes to the disk {name} fail, as there is no room left for {}; make some",
                path.display()
            );
            self.notify(Notice::Full(Full::Disk(name.to_owned(), path.to_owned())));
            self.shortages.told(Instant::now());
        }
    }

    fn resume(&mut self, machine: &mut Machine) -> Reply {
        if !machine.is_paused() {
            return Err(Refusal::State("the guest is not paused".to_owned()));
        }
        machine.resume();
        self.notify(Notice::Resumed);
        Ok(Answer::Done)
    }

    /// Carries out what came from the control interface. Ends the machine where that is what was asked.
    pub(super) fn obey(&mut self, machine: &mut Machine, asked: Asked) -> Option<MachineEnd> {
        let mut end = None;
        let reply = match asked.command {
            Command::Status => Ok(Answer::Status(Box::new(self.status(machine)))),
            Command::Config => {
                let config = in_force::config(self.context.sources, self.context.config);
                Ok(Answer::Config(Box::new(config)))
            }
            Command::Pause => self.pause(machine),
            Command::Resume => self.resume(machine),
            Command::PowerButton => self.press_power_button(machine),
            Command::Reset => {
                end = Some(MachineEnd::Reset);
                Ok(Answer::Done)
            }
            Command::End => {
                end = Some(MachineEnd::Run(End::Ended));
                Ok(Answer::Done)
            }
            Command::Statistics => {
                let statistics = statistics::gather(&self.context);
                Ok(Answer::Statistics(Box::new(statistics)))
            }
            Command::Disk(ref name, update) => {
                self.changed(changes::disk(self.context.sources, name, &update))
            }
            Command::Net(ref name, update) => {
                self.changed(changes::net(self.context.sources, name, &update))
            }
            Command::Balloon(update) => {
                let memory = self.context.config.memory.size.bytes();
                self.changed(changes::balloon(self.context.sources, memory, &update))
            }
            Command::ConsoleSize(columns, rows) => {
                self.resize_to(columns, rows);
                Ok(Answer::Done)
            }
        };
        asked.answer(reply);
        end
    }

    fn changed(&mut self, changed: Result<String, Refusal>) -> Reply {
        self.notify(Notice::Updated(changed?));
        Ok(Answer::Done)
    }

    fn status(&self, machine: &Machine) -> Vm {
        Vm {
            id: self.control.id.clone(),
            name: self.control.name.clone(),
            state: if machine.is_paused() { RunState::Paused } else { RunState::Running },
            pid: std::process::id(),
            carve_version: env!("CARGO_PKG_VERSION").to_owned(),
            vcpus: self.context.config.vcpus,
            memory: self.context.config.memory.size.bytes(),
            resets: self.resets.total(),
            started_at: self.started_at,
        }
    }
}
