// SPDX-License-Identifier: Apache-2.0
//! Who answers beside the loop: a process that names users, and threads that read what runtimes
//! have written down of containers.

use anyhow::Context as _;
use anyhow::Result;

use crate::host::containers::Readers;
use crate::host::users::Users;

/// As far as anybody wants to know.
#[derive(Default)]
pub struct Helpers {
    pub users: Option<Users>,
    pub containers: Option<Readers>,
}

impl Helpers {
    /// While there is no other thread.
    pub fn start(names_users: bool, names_containers: bool) -> Result<Self> {
        let users = names_users.then(Users::start).transpose();
        let users = users.context("failed to start a process for the names of users")?;
        let containers = names_containers.then(Readers::start).transpose();
        let containers = containers.context("failed to start threads for names of containers")?;
        Ok(Helpers { users, containers })
    }

    /// Once the process that names users has given up what it does not need.
    pub fn once_harmless(self) -> Self {
        Helpers { users: self.users.map(Users::once_harmless), ..self }
    }
}
