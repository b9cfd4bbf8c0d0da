//! Who lives: a file that a process keeps locked for as long as it exists.
//!
//! The lock is a POSIX record lock (fcntl_locking(2)): the kernel takes it back however the process
//! ends, no child inherits it, and it tells who holds it, so that no process id is ever believed that
//! was only written down. Its price: a process that opens the file a second time and closes it has
//! lost the lock. So what this process holds is known here, and never opened to be looked at.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::{
    Flock, FlockType, Pid, PidfdFlags, Signal, fcntl_getlk, getpid, pidfd_open, pidfd_send_signal,
};

/// Most bytes of last words that are believed.
const LAST_WORDS: usize = 4096;

/// What a living process says about itself, in one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Letter {
    /// It is setting up.
    Starting,
    /// The guest runs; of a monitor: it watches over a guest.
    Running,
    /// The guest is paused.
    Paused,
    /// A monitor that starts the guest again soon.
    Waiting,
}

impl Letter {
    fn byte(self) -> u8 {
        match self {
            Self::Starting => b'S',
            Self::Running => b'R',
            Self::Paused => b'P',
            Self::Waiting => b'W',
        }
    }

    fn of(byte: u8) -> Self {
        match byte {
            b'R' => Self::Running,
            b'P' => Self::Paused,
            b'W' => Self::Waiting,
            _ => Self::Starting,
        }
    }
}

/// What this process holds, and what it says there.
static HELD: Mutex<Vec<(PathBuf, Letter)>> = Mutex::new(Vec::new());

fn held() -> MutexGuard<'static, Vec<(PathBuf, Letter)>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sign of life of this process.
#[derive(Debug)]
pub struct Alive {
    file: File,
    path: PathBuf,
}

impl Alive {
    /// Locks the file at `path`, made if needed; nothing if another process has it.
    ///
    /// # Errors
    ///
    /// The file cannot be made or locked.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        let mut held = held();
        if held.iter().any(|(other, _)| other == path) {
            return Ok(None);
        }
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path)?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // The last words of the one before.
        file.set_len(0)?;
        held.push((path.to_owned(), Letter::Starting));
        drop(held);
        let alive = Self { file, path: path.to_owned() };
        alive.say(Letter::Starting)?;
        Ok(Some(alive))
    }

    /// Another descriptor of the file, for last words after the letter.
    ///
    /// # Errors
    ///
    /// The process has no more descriptors. Closing what is returned loses the lock.
    pub fn last_words(&self) -> io::Result<OwnedFd> {
        self.file.try_clone().map(OwnedFd::from)
    }

    /// Leaves last words, where nobody else is left to write down what they say. False: they are too long.
    ///
    /// # Errors
    ///
    /// The file cannot be written to.
    pub fn leave(&self, words: &str) -> io::Result<bool> {
        let fits = words.len() < LAST_WORDS;
        if fits {
            self.file.write_all_at(words.as_bytes(), 1)?;
        }
        Ok(fits)
    }

    /// Says what the process does.
    ///
    /// # Errors
    ///
    /// The file cannot be written to.
    pub fn say(&self, letter: Letter) -> io::Result<()> {
        if let Some((_, said)) = held().iter_mut().find(|(path, _)| *path == self.path) {
            *said = letter;
        }
        self.file.write_all_at(&[letter.byte()], 0)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        held().retain(|(path, _)| *path != self.path);
    }
}

/// What a process that is gone wrote after its letter, if it had to die for something, or nobody else could.
pub fn last_words(path: &Path) -> Option<String> {
    let mut text = String::new();
    let mut file = File::open(path).ok()?.take(LAST_WORDS as u64);
    file.read_to_string(&mut text).ok()?;
    let words: String = text.chars().skip(1).filter(|c| !c.is_control()).collect();
    (!words.is_empty()).then_some(words)
}

/// A process that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its id.
    pub pid: Pid,
    /// What it says.
    pub letter: Letter,
}

/// Who keeps the file at `path` locked; nothing if nobody does.
///
/// # Errors
///
/// The file cannot be read.
pub fn look(path: &Path) -> io::Result<Option<Seen>> {
    if let Some(&(_, letter)) = held().iter().find(|(other, _)| other == path) {
        return Ok(Some(Seen { pid: getpid(), letter }));
    }
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(holder) = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock))? else {
        return Ok(None);
    };
    let mut byte = [0];
    let letter = match file.read_at(&mut byte, 0)? {
        0 => Letter::Starting,
        _ => Letter::of(byte[0]),
    };
    // Without an id the holder is in a process namespace that this process does not see.
    let unseen = || io::Error::other("its process is in a namespace that is not seen from here");
    Ok(Some(Seen { pid: holder.pid.ok_or_else(unseen)?, letter }))
}

/// Sends a signal to the process that was `seen` at `path`, and to no other that has its id by now.
pub(super) fn send(path: &Path, seen: Seen, number: Signal) -> io::Result<()> {
    let pidfd = match pidfd_open(seen.pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other?,
    };
    // Still the one that holds the lock: so the descriptor is of that process.
    if look(path)?.is_none_or(|now| now.pid != seen.pid) {
        return Ok(());
    }
    match pidfd_send_signal(&pidfd, number) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => Ok(other?),
    }
}

/// Waits for the end of a process. False: it still lives at `until`.
pub(super) fn wait_for(seen: Seen, until: Instant) -> io::Result<bool> {
    let pidfd = match pidfd_open(seen.pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        other => other?,
    };
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let time = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], time.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod live_test {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn nobody_lives_where_nothing_is_locked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmm");
        assert_eq!(look(&path).unwrap(), None);
        drop(Alive::take(&path).unwrap().unwrap());
        assert_eq!(look(&path).unwrap(), None);
    }

    #[test]
    fn last_words_are_heard_once_the_process_is_gone_and_no_longer_than_until_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmm");
        let alive = Alive::take(&path).unwrap().unwrap();
        assert!(alive.leave("it was\nlike this").unwrap());
        assert!(!alive.leave(&"x".repeat(LAST_WORDS)).unwrap());
        drop(alive);
        assert_eq!(last_words(&path).as_deref(), Some("it waslike this"));
        drop(Alive::take(&path).unwrap().unwrap());
        assert_eq!(last_words(&path), None);
    }

    #[test]
    fn who_looks_at_its_own_sign_of_life_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmm");
        let alive = Alive::take(&path).unwrap().unwrap();
        alive.say(Letter::Paused).unwrap();
        assert_eq!(look(&path).unwrap(), Some(Seen { pid: getpid(), letter: Letter::Paused }));
        assert!(Alive::take(&path).unwrap().is_none());
        // Nobody closed the file in between: whoever else looks sees the lock.
        let other = Command::new(std::env::current_exe().unwrap())
            .args(["--nocapture", "--exact", "guests::live::live_test::another_process_looks"])
            .env(LOOK, &path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&other.stdout).into_owned();
        assert!(said.contains("it lives"), "{said}");
        drop(alive);
        assert_eq!(look(&path).unwrap(), None);
    }

    const LOOK: &str = "CARVE_TEST_LOOKS";

    /// Not a test of its own: what the one before runs in another process.
    #[test]
    fn another_process_looks() {
        let Some(path) = std::env::var_os(LOOK) else { return };
        if look(Path::new(&path)).unwrap().is_some() {
            println!("it lives");
        }
    }

    const HOLD: &str = "CARVE_TEST_HOLDS";

    /// Not a test of its own: what the next one runs in another process.
    #[test]
    fn another_process_holds_the_lock() {
        let Some(path) = std::env::var_os(HOLD) else { return };
        let alive = Alive::take(Path::new(&path)).unwrap().unwrap();
        alive.say(Letter::Paused).unwrap();
        println!("locked");
        std::thread::sleep(std::time::Duration::from_secs(60));
    }

    #[test]
    fn another_process_is_seen_with_its_id_until_it_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmm");
        let mut other = Command::new(std::env::current_exe().unwrap())
            .args([
                "--nocapture",
                "--exact",
                "guests::live::live_test::another_process_holds_the_lock",
            ])
            .env(HOLD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(other.stdout.take().unwrap()).lines();
        lines.map(Result::unwrap).find(|line| line.ends_with("locked")).unwrap();
        let seen = look(&path).unwrap().unwrap();
        assert_eq!(seen.pid.as_raw_nonzero().get(), i32::try_from(other.id()).unwrap());
        assert_eq!(seen.letter, Letter::Paused);
        assert!(Alive::take(&path).unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(look(&path).unwrap(), None);
    }
}
