//! Pseudo-terminals: a user's end, and an end for programs.

use std::fs::File;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Both ends of a pseudo-terminal, which is nobody's controlling one.
pub struct Pty {
    /// What a user at the terminal types and sees.
    pub user: File,
    /// What programs have as their terminal.
    pub terminal: File,
}

impl Pty {
    /// A new one.
    pub fn open() -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let name = ptsname(&user, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = File::from(open(name, flags, Mode::empty()).unwrap());
        Self { user: File::from(user), terminal }
    }

    /// Sets the window's size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.user, size).unwrap();
    }
}
