//! `/dev/vhost-net`, opened once for each pair of queues.

use std::fs::OpenOptions;
use std::io;
use std::sync::Arc;

use devices::virtio::net::VhostNet;

use super::Problem;

const DEVICE: &str = "/dev/vhost-net";

/// One for each of `queues`.
pub(super) fn open(queues: u16) -> Result<Vec<Arc<VhostNet>>, Problem> {
    let open = |_| {
        let file = OpenOptions::new().read(true).write(true).open(DEVICE);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Problem::VhostPermission,
            _ => Problem::Vhost(error),
        })?;
        VhostNet::new(file).map(Arc::new).map_err(Problem::VhostFeatures)
    };
    (0..queues).map(open).collect()
}
