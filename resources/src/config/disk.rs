//! [`Disk`]: a disk of a VM, as a table of a config file or as the value of `--disk`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::schema_of::schema_of;
use super::words::words;
use super::{Bandwidth, Name, Volume};
use crate::Size;

words! {
    /// How a disk's sectors lie in its file.
    ///
    /// A guest can write anything into a raw disk, also the header of a qcow2 image that names some
    /// file of the host as its base; were the disk taken for qcow2 the next time, the guest could read
    /// that file. So `auto` takes a file for qcow2 only if it names no other file, and `raw` never
    /// looks.
    DiskFormat {
        /// qcow2 if the file begins like such an image and refers to no other file; refused if it
        /// does refer to one; otherwise raw.
        #[default]
        Auto = "auto",
        /// The bytes of the file are those of the disk.
        Raw = "raw",
        /// A qcow2 image, with the images it is based on.
        Qcow2 = "qcow2",
    }
}

/// Where writes go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Overlay {
    /// To the disk's file.
    #[default]
    None,
    /// To a temporary file that goes away with the VM.
    Discard,
    /// To a qcow2 image of this path, made if there is none.
    Keep(PathBuf),
}

/// One disk, valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// The file or block device. Empty where the disk is in a pool and nobody has said yet where
    /// that is.
    pub path: PathBuf,
    /// The pool it is made in, if it is.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub volume: Option<Volume>,
    /// The guest cannot write.
    pub readonly: bool,
    /// How its sectors lie in the file.
    pub format: DiskFormat,
    /// Number of queues, 1 to 16: how many vCPUs can do I/O at once, each with a thread of its own.
    pub queues: u16,
    /// Requests that fit into a queue, a power of two from 16 to 1024.
    pub queue_size: u16,
    /// Where writes go.
    pub overlay: Overlay,
    /// Go around the host's page cache (`O_DIRECT`).
    pub direct: bool,
    /// The serial number that the guest sees, up to 20 printable ASCII characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Size of a logical block in bytes, 512 or 4096.
    pub block_size: u32,
    /// Most requests a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops: Option<u64>,
    /// Requests let through at once after a rest; a tenth of a second's worth if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_burst: Option<u64>,
    /// Most bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// Bytes let through at once after a rest; a tenth of a second's worth if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_burst: Option<Size>,
}

/// Why there can be no such disk: value, reason and remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum InvalidDisk {
    #[error("the disk has no path; name its file as in path=disk.img")]
    NoPath,
    #[error("the disk is in pool {0}, but has no size; give it one, such as 20GiB")]
    NoSize(Name),
    #[error("{0} is given without pool, which it belongs to; name the pool, or leave {0} out")]
    VolumeAlone(&'static str),
    #[error("size {0} is not a multiple of 4KiB; round it up")]
    PartialBlock(Size),
    #[error("queues {0} is out of range; use 1 to 16")]
    Queues(u64),
    #[error("queue_size {0} is not a power of two from 16 to 1024; use 256")]
    QueueSize(u64),
    #[error("block_size {0} is no size of a block; use 512 or 4096")]
    BlockSize(u64),
    #[error("serial `{0}` is not 1 to 20 printable ASCII characters; shorten or leave it out")]
    Serial(String),
    #[error("{0} 0 would let nothing pass; leave it out for no limit")]
    NoRate(&'static str),
    #[error("{0}_burst is given without {0}, which it belongs to; give both or none")]
    BurstAlone(&'static str),
    #[error("a readonly disk has no use for an overlay; leave one of the two out")]
    ReadonlyOverlay,
    #[error("the overlay has an empty path; use false, discard or a path")]
    EmptyOverlay,
}

impl Disk {
    /// The disk in the file `path`, everything else as if not given.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            volume: None,
            readonly: false,
            format: DiskFormat::Auto,
            queues: 1,
            queue_size: 256,
            overlay: Overlay::None,
            direct: false,
            serial: None,
            block_size: 512,
            iops: None,
            iops_burst: None,
            bandwidth: None,
            bandwidth_burst: None,
        }
    }

    /// The limit of requests: a second, and at once.
    #[must_use]
    pub fn operations_limit(&self) -> Option<(u64, u64)> {
        let rate = self.iops?;
        Some((rate, self.iops_burst.unwrap_or_else(|| (rate / 10).max(1))))
    }

    /// The limit of bytes: a second, and at once.
    #[must_use]
    pub fn bandwidth_limit(&self) -> Option<(u64, u64)> {
        let rate = self.bandwidth?.bytes_per_second();
        Some((rate, self.bandwidth_burst.map_or_else(|| (rate / 10).max(1), Size::bytes)))
    }
}

/// A disk as written; the keys of a table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Table {
    path: Option<PathBuf>,
    pool: Option<Name>,
    size: Option<Size>,
    image: Option<PathBuf>,
    preallocate: Option<bool>,
    readonly: Option<bool>,
    format: Option<DiskFormat>,
    queues: Option<u64>,
    queue_size: Option<u64>,
    overlay: Option<Overlay>,
    direct: Option<bool>,
    serial: Option<String>,
    block_size: Option<u64>,
    iops: Option<u64>,
    iops_burst: Option<u64>,
    bandwidth: Option<Bandwidth>,
    bandwidth_burst: Option<Size>,
}

const KEYS: &str = "path, readonly, format, queues, queue_size, overlay, direct, serial, \
                    block_size, iops, iops_burst, bandwidth and bandwidth_burst";

impl TryFrom<Table> for Disk {
    type Error = InvalidDisk;

    fn try_from(table: Table) -> Result<Self, InvalidDisk> {
        let volume = table.volume()?;
        let path = table.path.filter(|path| !path.as_os_str().is_empty());
        // A disk in a pool gets its path from there.
        let path = if volume.is_some() { path.or(Some(PathBuf::new())) } else { path };
        let mut disk = Self::new(path.ok_or(InvalidDisk::NoPath)?);
        disk.volume = volume;
        if let Some(queues) = table.queues {
            let valid = u16::try_from(queues).ok().filter(|queues| (1..=16).contains(queues));
            disk.queues = valid.ok_or(InvalidDisk::Queues(queues))?;
        }
        if let Some(size) = table.queue_size {
            let valid = u16::try_from(size)
                .ok()
                .filter(|size| size.is_power_of_two() && (16..=1024).contains(size));
            disk.queue_size = valid.ok_or(InvalidDisk::QueueSize(size))?;
        }
        if let Some(size) = table.block_size {
            let valid = [512, 4096].into_iter().find(|&valid| u64::from(valid) == size);
            disk.block_size = valid.ok_or(InvalidDisk::BlockSize(size))?;
        }
        if let Some(serial) = &table.serial {
            let printable = serial.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
            if !printable || !(1..=20).contains(&serial.len()) {
                return Err(InvalidDisk::Serial(serial.clone()));
            }
        }
        if table.iops == Some(0) {
            return Err(InvalidDisk::NoRate("iops"));
        }
        if table.iops.is_none() && table.iops_burst.is_some() {
            return Err(InvalidDisk::BurstAlone("iops"));
        }
        if table.bandwidth.is_none() && table.bandwidth_burst.is_some() {
            return Err(InvalidDisk::BurstAlone("bandwidth"));
        }
        disk.readonly = table.readonly.unwrap_or(false);
        disk.overlay = table.overlay.unwrap_or_default();
        match &disk.overlay {
            Overlay::Keep(path) if path.as_os_str().is_empty() => {
                return Err(InvalidDisk::EmptyOverlay);
            }
            Overlay::Discard | Overlay::Keep(_) if disk.readonly => {
                return Err(InvalidDisk::ReadonlyOverlay);
            }
            _ => {}
        }
        disk.format = table.format.unwrap_or_default();
        disk.direct = table.direct.unwrap_or(false);
        disk.serial = table.serial;
        (disk.iops, disk.iops_burst) = (table.iops, table.iops_burst);
        (disk.bandwidth, disk.bandwidth_burst) = (table.bandwidth, table.bandwidth_burst);
        Ok(disk)
    }
}

/// Why a text is no disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a disk: {reason}; write it as in disk.img or path=disk.img,readonly,format=raw"
)]
pub struct ParseDiskError {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl FromStr for Disk {
    type Err = ParseDiskError;

    /// Reads `FILE`, or keys and values separated by commas. `FILE` may stand in front of keys, too;
    /// `readonly` and `direct` need no value. A path with a comma can only stand in a config file.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason: String| ParseDiskError { text: text.to_owned(), reason };
        let mut table = Table::default();
        for (index, part) in text.split(',').enumerate() {
            let set = match part.split_once('=') {
                Some((key, value)) => table.set(key, value),
                None if ["readonly", "direct"].contains(&part) => table.set(part, "true"),
                None if index == 0 => table.set("path", part),
                None => Err(format!("`{part}` has no value")),
            };
            set.map_err(fail)?;
        }
        Self::try_from(table).map_err(|invalid| fail(invalid.to_string()))
    }
}

impl Table {
    fn volume(&self) -> Result<Option<Volume>, InvalidDisk> {
        let Some(pool) = self.pool.clone() else {
            let given = [
                ("size", self.size.is_some()),
                ("image", self.image.is_some()),
                ("preallocate", self.preallocate.is_some()),
            ];
            let alone = given.into_iter().find(|(_, given)| *given);
            return alone.map_or(Ok(None), |(key, _)| Err(InvalidDisk::VolumeAlone(key)));
        };
        let size = self.size.ok_or_else(|| InvalidDisk::NoSize(pool.clone()))?;
        if size.bytes() == 0 || !size.bytes().is_multiple_of(4096) {
            return Err(InvalidDisk::PartialBlock(size));
        }
        let preallocate = self.preallocate.unwrap_or(false);
        Ok(Some(Volume { pool, size, image: self.image.clone(), preallocate }))
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "path" => put(&mut self.path, key, value, "a path"),
            "readonly" => put(&mut self.readonly, key, value, "true or false"),
            "format" => put(&mut self.format, key, value, "auto, raw or qcow2"),
            "queues" => put(&mut self.queues, key, value, "a number from 1 to 16"),
            "queue_size" => put(&mut self.queue_size, key, value, "a power of two"),
            "overlay" => put(&mut self.overlay, key, value, "false, discard or a path"),
            "direct" => put(&mut self.direct, key, value, "true or false"),
            "serial" => put(&mut self.serial, key, value, "a text"),
            "block_size" => put(&mut self.block_size, key, value, "512 or 4096"),
            "iops" | "iops_burst" => {
                let slot = if key == "iops" { &mut self.iops } else { &mut self.iops_burst };
                put(slot, key, value, "a whole number")
            }
            "bandwidth" => put(&mut self.bandwidth, key, value, "a rate such as 100MB"),
            "bandwidth_burst" => put(&mut self.bandwidth_burst, key, value, "a size such as 16MiB"),
            _ => Err(format!("`{key}` is not one of {KEYS}")),
        }
    }
}

fn put<T: FromStr>(slot: &mut Option<T>, key: &str, value: &str, kind: &str) -> Result<(), String> {
    let value = value.parse().map_err(|_| format!("{key} `{value}` is not {kind}"))?;
    match slot.replace(value) {
        Some(_) => Err(format!("{key} is given twice")),
        None => Ok(()),
    }
}

impl FromStr for Overlay {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "false" => Self::None,
            "discard" => Self::Discard,
            path => Self::Keep(path.into()),
        })
    }
}

impl Serialize for Overlay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_bool(false),
            Self::Discard => serializer.serialize_str("discard"),
            Self::Keep(path) => path.serialize(serializer),
        }
    }
}

schema_of!(Overlay, |_generator| { "anyOf": [{ "const": false }, { "type": "string" }] });

schema_of!(Disk, |generator| {
    "anyOf": [{ "type": "string" }, Table::json_schema(generator)],
});

impl<'de> Deserialize<'de> for Overlay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OverlayVisitor;

        impl Visitor<'_> for OverlayVisitor {
            type Value = Overlay;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("false, \"discard\" or the path of an overlay")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Overlay, E> {
                if value {
                    return Err(E::invalid_value(de::Unexpected::Bool(true), &self));
                }
                Ok(Overlay::None)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Overlay, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(OverlayVisitor)
    }
}

impl<'de> Deserialize<'de> for Disk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By hand and not `#[serde(untagged)]`: that loses the place of an error.
        struct DiskVisitor;

        impl<'de> Visitor<'de> for DiskVisitor {
            type Value = Disk;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of a disk, or a table with the key path")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<Disk, E> {
                let table = Table { path: Some(path.into()), ..Table::default() };
                Disk::try_from(table).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Disk, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                Disk::try_from(table).map_err(de::Error::custom)
            }
        }

        deserializer.deserialize_any(DiskVisitor)
    }
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod disk_test;
