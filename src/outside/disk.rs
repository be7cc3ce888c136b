//! Files, on the real disk; and how a file is replaced, on any.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::doors::{Disk, Found, Lock, Space, Subvolume, World, Write};
use crate::model::names::OrderId;
use crate::model::time::Time;

/// What could not be done with which file.
#[derive(Debug)]
pub struct Error {
    pub doing: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.doing, self.path.display(), self.source)
    }
}

fn cannot<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |source| Error { doing, path: path.into(), source }
}

impl World {
    /// `None`: there is no such file.
    pub fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        match self.disk.read(path, limit) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => read.map(Some).map_err(cannot("read", path)),
        }
    }

    /// A file of a checkout, whose author is to read no other files by it, nor to have them written.
    pub fn read_within(&self, folder: &Path, file: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let path = folder.join(file);
        self.disk.within(folder, &path).map_err(cannot("read", &path))?;
        self.read_file(&path, limit)
    }

    pub fn list_folder(&self, folder: &Path) -> Result<Vec<String>, Error> {
        self.disk.list(folder).map_err(cannot("read", folder))
    }

    /// Nothing where there is no such folder.
    pub fn list_folder_if_any(&self, folder: &Path) -> Result<Vec<String>, Error> {
        if self.is_folder(folder) { self.list_folder(folder) } else { Ok(Vec::new()) }
    }

    pub fn look_at(&self, path: &Path) -> Result<Option<Found>, Error> {
        self.disk.look(path).map_err(cannot("read", path))
    }

    pub fn is_folder(&self, path: &Path) -> bool {
        self.disk.look(path).is_ok_and(|found| found.is_some_and(|found| found.folder))
    }

    pub fn is_file(&self, path: &Path) -> bool {
        self.disk.look(path).is_ok_and(|found| found.is_some_and(|found| !found.folder))
    }

    pub fn write_file(&self, path: &Path, bytes: &[u8], how: Write, synced: bool) -> Result<(), Error> {
        self.disk.write(path, bytes, how, synced).map_err(cannot("write", path))
    }

    /// Replaces a file: a reader sees the old or the new, never a half. If `synced` it is on the disk when this returns; if not, a power
    /// failure may bring the old one back or leave an empty one. Two processes may do it at once, each beside in its own.
    pub fn replace_file(&self, path: &Path, bytes: &[u8], synced: bool) -> Result<(), Error> {
        self.replace(path, bytes, synced, None)
    }

    /// The same for a file that others read, programs in containers for one.
    pub fn replace_shared_file(&self, path: &Path, bytes: &[u8], synced: bool) -> Result<(), Error> {
        self.replace(path, bytes, synced, Some(0o644))
    }

    fn replace(&self, path: &Path, bytes: &[u8], synced: bool, mode: Option<u32>) -> Result<(), Error> {
        let beside = path.with_added_extension(format!("{}.new", self.disk.process()));
        let written = self.disk.write(&beside, bytes, Write::Over, synced);
        let written = written.and_then(|()| mode.map_or(Ok(()), |mode| self.disk.set_mode(&beside, mode)));
        written
            .and_then(|()| self.disk.rename(&beside, path))
            .and_then(|()| if synced { self.disk.sync_folder(path.parent().unwrap_or(path)) } else { Ok(()) })
            .map_err(cannot("write", path))
    }

    /// A file that was not there: an error where it is. All of it is on the disk when this returns, with room for as many bytes as are said.
    pub fn create_file(&self, path: &Path, bytes: &[u8], room: u64) -> Result<(), Error> {
        let beside = path.with_added_extension(format!("{}.new", self.disk.process()));
        let written = self.write_with_room(&beside, bytes, room);
        let linked = written.and_then(|()| self.disk.link(&beside, path));
        // Whether it is needed any more or not.
        let removed = self.disk.remove(&beside);
        linked.and(removed).and_then(|()| self.disk.sync_folder(path.parent().unwrap_or(path))).map_err(cannot("create", path))
    }

    /// Room comes first: how a file system keeps it cannot be changed once something is in the file.
    fn write_with_room(&self, path: &Path, bytes: &[u8], room: u64) -> io::Result<()> {
        self.disk.write(path, b"", Write::Over, false)?;
        self.disk.reserve(path, room)?;
        self.disk.write(path, bytes, Write::Append, true)
    }

    /// A file that is appended to has room for so many bytes; it is created if need be, and its name is on the disk. One that can have none,
    /// since it came to this disk as a copy, is made anew.
    pub fn reserve_file(&self, path: &Path, bytes: u64) -> Result<(), Error> {
        let there = self.disk.write(path, b"", Write::Append, false);
        let room = match there.and_then(|()| self.disk.reserve(path, bytes)) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                let beside = path.with_added_extension(format!("{}.new", self.disk.process()));
                let copied = self.disk.read(path, u64::MAX - 1).and_then(|text| self.write_with_room(&beside, &text, bytes));
                copied.and_then(|()| self.disk.rename(&beside, path))
            }
            room => room,
        };
        room.and_then(|()| self.disk.sync_folder(path.parent().unwrap_or(path))).map_err(cannot("take room for", path))
    }

    pub fn rename_file(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.disk.rename(from, to).map_err(cannot("rename", from))
    }

    /// A second name for a file, on the disk when this returns; an error where something has that name.
    pub fn link_file(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.disk.link(from, to).and_then(|()| self.disk.sync_folder(to.parent().unwrap_or(to))).map_err(cannot("create", to))
    }

    /// A file that is gone already is no error.
    pub fn remove_file(&self, path: &Path) -> Result<(), Error> {
        match self.disk.remove(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(cannot("remove", path)),
        }
    }

    /// A folder that is gone already is no error.
    pub fn remove_folder(&self, path: &Path) -> Result<(), Error> {
        match self.disk.remove_all(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(cannot("remove", path)),
        }
    }

    pub fn create_folder(&self, folder: &Path) -> Result<(), Error> {
        self.disk.create_folders(folder).map_err(cannot("create", folder))
    }

    /// One that others look into; it is left as it is where it is there already.
    pub fn create_shared_folder(&self, folder: &Path) -> Result<(), Error> {
        if self.is_folder(folder) {
            return Ok(());
        }
        self.create_folder(folder)?;
        self.disk.set_mode(folder, 0o755).map_err(cannot("create", folder))
    }

    /// What is open to others is this user's alone from now on. The folder itself comes last: as long as it is open, its content may be, too.
    pub fn close_folder(&self, folder: &Path, but: &Path) -> Result<(), Error> {
        for path in self.list_folder(folder)?.into_iter().map(|name| folder.join(name)).filter(|path| path != but) {
            match self.is_folder(&path) {
                true => self.close_folder(&path, but)?,
                false => self.close_file(&path)?,
            }
        }
        self.disk.set_mode(folder, 0o700).map_err(cannot("change the mode of", folder))
    }

    pub fn close_file(&self, path: &Path) -> Result<(), Error> {
        match self.disk.set_mode(path, 0o600) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()), // another run's, gone meanwhile
            closed => closed.map_err(cannot("change the mode of", path)),
        }
    }

    /// The names in the folder are on the disk when this returns.
    pub fn sync_folder(&self, folder: &Path) -> Result<(), Error> {
        self.disk.sync_folder(folder).map_err(cannot("sync", folder))
    }

    /// What programs have written into the folder is on the disk when this returns.
    pub fn sync_disk(&self, folder: &Path) -> Result<(), Error> {
        self.disk.sync_disk(folder).map_err(cannot("sync", folder))
    }

    /// `None`: nothing is there. What is there and no subvolume is an error.
    pub fn subvolume(&self, path: &Path) -> Result<Option<Subvolume>, Error> {
        match self.disk.subvolume(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            found => found.map(Some).map_err(cannot("look at", path)),
        }
    }

    /// Whether the folder is there, for this user, on a disk whose snapshots can be looked at. A disk that does not answer says neither.
    pub fn is_on_btrfs(&self, folder: &Path) -> Result<bool, Error> {
        use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
        match self.disk.is_btrfs(folder) {
            Err(why) if matches!(why.kind(), NotFound | NotADirectory | PermissionDenied) => Ok(false),
            read => read.map_err(cannot("look at", folder)),
        }
    }

    /// What names this run of the machine: another one after each boot.
    pub fn boot(&self) -> Result<String, Error> {
        let path = Path::new(BOOT);
        let text = self.disk.read(path, 64).map_err(cannot("read", path))?;
        Ok(String::from_utf8_lossy(&text).trim().to_string())
    }

    pub fn space(&self, folder: &Path) -> Result<Space, Error> {
        self.disk.space(folder).map_err(cannot("read the free space of", folder))
    }

    /// The user that this process runs as.
    pub fn user(&self) -> Result<u32, Error> {
        self.disk.user().map_err(cannot("read", Path::new("/proc/self")))
    }

    /// A new id from the kernel's random numbers.
    pub fn new_id(&self) -> Result<OrderId, Error> {
        self.disk.random().map(OrderId::of).map_err(cannot("read", Path::new("/dev/urandom")))
    }

    /// Waits until nobody else has it.
    pub fn lock_file(&self, path: &Path) -> Result<Lock, Error> {
        let locked = self.disk.lock(path, true).and_then(|lock| lock.ok_or_else(|| io::Error::from(ErrorKind::WouldBlock)));
        locked.map_err(cannot("lock", path))
    }

    /// `None`: somebody else has it.
    pub fn try_lock_file(&self, path: &Path) -> Result<Option<Lock>, Error> {
        self.disk.lock(path, false).map_err(cannot("lock", path))
    }
}

const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// The mode of new files.
pub const PRIVATE: u32 = 0o600;
/// `FS_NOCOW_FL` of Linux.
const NO_COPY_ON_WRITE: libc::c_long = 0x0080_0000;

/// `struct btrfs_ioctl_get_subvol_info_args` of Linux.
#[repr(C)]
struct SubvolumeInfo {
    id: u64,
    name: [u8; 256],
    parent_id: u64,
    folder_id: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    /// Generations and times of its changes, and what is kept for later.
    rest: [u64; 4 + 8 + 8],
}

/// `BTRFS_IOC_GET_SUBVOL_INFO`, `_IOR(0x94, 60, …)`; needs no privilege.
const GET_SUBVOLUME_INFO: libc::c_ulong = 2 << 30 | (size_of::<SubvolumeInfo>() as libc::c_ulong) << 16 | 0x94 << 8 | 60;
/// `BTRFS_ROOT_SUBVOL_RDONLY`
const READ_ONLY: u64 = 1;
/// The inode of each subvolume's own folder.
const FIRST_INODE: u64 = 256;

fn on_btrfs(file: &File) -> io::Result<bool> {
    // SAFETY: zeros are a value of each of its members.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: it is written to as long as the call lasts; the descriptor is open.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(found.f_type as u32 == libc::BTRFS_SUPER_MAGIC as u32)
}

/// The real one.
pub struct RealDisk;

impl Disk for RealDisk {
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            Err(io::Error::new(ErrorKind::FileTooLarge, format!("larger than {limit} bytes")))
        } else {
            Ok(bytes)
        }
    }

    fn within(&self, folder: &Path, path: &Path) -> io::Result<()> {
        let outside = |what| Err(io::Error::new(ErrorKind::InvalidInput, what));
        if fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Ok(());
        }
        match fs::canonicalize(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => outside("a link that leads to nothing"),
            Err(error) => Err(error),
            Ok(real) if !real.starts_with(fs::canonicalize(folder)?) => outside("a link that leads out of the repository"),
            Ok(real) if !fs::metadata(&real)?.is_file() => outside("not a file"),
            Ok(_) => Ok(()),
        }
    }

    fn look(&self, path: &Path) -> io::Result<Option<Found>> {
        match fs::metadata(path) {
            Ok(data) => Ok(Some(Found {
                folder: data.is_dir(),
                len: data.len(),
                owner: data.uid(),
                mode: data.mode() & 0o7777,
                modified: Time { secs: data.mtime(), micros: 0 },
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn write(&self, path: &Path, bytes: &[u8], how: Write, synced: bool) -> io::Result<()> {
        let mut options = OpenOptions::new();
        match how {
            Write::Append => options.append(true).create(true),
            Write::Over => options.write(true).create(true).truncate(true),
        };
        let mut file = options.mode(PRIVATE).open(path)?;
        file.write_all(bytes)?;
        if synced { file.sync_data() } else { Ok(()) }
    }

    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        // btrfs puts each block that is written again elsewhere, for which a full disk has no room, unless it is told not to. Others do not
        // know the flag, and need no telling.
        // SAFETY: what is read is as long as the call says; the descriptor is open.
        unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &NO_COPY_ON_WRITE) };
        // It takes the flag without a word and without effect where something is in the file already.
        let mut flags: libc::c_long = 0;
        // SAFETY: what is written is as long as the call says; the descriptor is open.
        let told = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) } == 0;
        if told && flags & NO_COPY_ON_WRITE == 0 && on_btrfs(&file)? {
            return Err(ErrorKind::Unsupported.into());
        }
        // SAFETY: no memory is involved; the descriptor is open.
        match unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, bytes as libc::off_t) } {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
                error => Err(error),
            },
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_data()
    }

    fn subvolume(&self, path: &Path) -> io::Result<Subvolume> {
        let folder = File::open(path)?;
        // Of a folder below it the call would tell the same.
        if folder.metadata()?.ino() != FIRST_INODE {
            return Err(io::Error::new(ErrorKind::InvalidInput, "no subvolume of btrfs"));
        }
        // SAFETY: zeros are a value of each of its members.
        let mut info: SubvolumeInfo = unsafe { std::mem::zeroed() };
        // SAFETY: what is written is as long as the call says, and so is what it is written to; the descriptor is open.
        // Kernels answer with 1, too, when all went well.
        if unsafe { libc::ioctl(folder.as_raw_fd(), GET_SUBVOLUME_INFO as _, &raw mut info) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let hex = |uuid: [u8; 16]| -> String { uuid.iter().map(|byte| format!("{byte:02x}")).collect() };
        let received = (info.received_uuid != [0; 16]).then(|| hex(info.received_uuid));
        Ok(Subvolume { uuid: hex(info.uuid), received, read_only: info.flags & READ_ONLY != 0 })
    }

    fn is_btrfs(&self, folder: &Path) -> io::Result<bool> {
        on_btrfs(&File::open(folder)?)
    }

    fn sync_disk(&self, folder: &Path) -> io::Result<()> {
        let folder = File::open(folder)?;
        // SAFETY: no memory is involved; the descriptor is open.
        if unsafe { libc::syncfs(folder.as_raw_fd()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_all(&self, folder: &Path) -> io::Result<()> {
        fs::remove_dir_all(folder)
    }

    fn create_folders(&self, folder: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    fn lock(&self, path: &Path, wait: bool) -> io::Result<Option<Lock>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(PRIVATE).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) if wait => file.lock()?,
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        Ok(Some(Lock(Box::new(file))))
    }

    fn space(&self, folder: &Path) -> io::Result<Space> {
        let folder = File::open(folder)?;
        // SAFETY: zeros are a value of it.
        let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open, and what is written is as long as the call says.
        match unsafe { libc::fstatvfs(folder.as_raw_fd(), &raw mut found) } {
            0 => Ok(Space { free: found.f_bavail as u64 * found.f_frsize as u64, all: found.f_blocks as u64 * found.f_frsize as u64 }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn user(&self) -> io::Result<u32> {
        Ok(fs::metadata("/proc/self")?.uid())
    }

    fn process(&self) -> u32 {
        std::process::id()
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_leads_out_of_a_checkout_is_not_read() {
        let top = std::env::temp_dir().join(format!("handler-within-{}", std::process::id()));
        let checkout = top.join("checkout");
        fs::create_dir_all(checkout.join("folder")).unwrap();
        fs::write(top.join("state.json"), "secret").unwrap();
        fs::write(checkout.join("folder/real"), "own").unwrap();
        symlink("folder/real", checkout.join("inside")).unwrap();
        symlink("../state.json", checkout.join("above")).unwrap();
        symlink("/dev/zero", checkout.join("device")).unwrap();
        symlink("../new", checkout.join("dangling")).unwrap();
        symlink("loop", checkout.join("loop")).unwrap();
        symlink("..", checkout.join("up")).unwrap();
        let within = |file: &str| RealDisk.within(&checkout, &checkout.join(file)).map_err(|error| error.to_string());
        for file in ["inside", "folder/real", "none"] {
            assert_eq!(within(file), Ok(()), "{file}");
        }
        for (file, why) in [
            ("above", "a link that leads out of the repository"),
            ("device", "a link that leads out of the repository"),
            ("up/state.json", "a link that leads out of the repository"),
            ("dangling", "a link that leads to nothing"),
            ("folder", "not a file"),
        ] {
            assert_eq!(within(file), Err(why.into()), "{file}");
        }
        assert!(within("loop").is_err());
        fs::remove_dir_all(&top).unwrap();
    }
}
