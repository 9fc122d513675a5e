//! nginx, as an instance that nobody here has written.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Result, bail};

use crate::cleanup::{self, Folder};
use crate::process::Process;
use crate::topology::Host;

/// A running nginx that serves files; killed when dropped.
#[derive(Debug)]
pub struct Nginx {
    _process: Process,
    _folder: Folder,
}

impl Nginx {
    /// Starts one on a host and a port, on all addresses, with these files. Each answer says
    /// `x-instance` like the instances of our own.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(host: &Host, port: u16, files: &[(&str, &[u8])]) -> Result<Self> {
        let folder = Folder::temporary("lb-nginx-")?;
        for (name, content) in files {
            let mut file = fs::File::create(folder.path().join(name))?;
            file.write_all(content)?;
            // What nginx makes an ETag of: instances that serve the same must say the same.
            file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000))?;
        }
        let file = folder.path().join("nginx.conf");
        let path = folder.path().display();
        let name = &host.name;
        fs::write(
            &file,
            format!(
                "daemon off;\nmaster_process off;\nuser root;\npid {path}/pid;\n\
                 error_log stderr;\nevents {{}}\nhttp {{\n  access_log off;\n  etag on;\n  \
                 client_body_temp_path {path}/body;\n  proxy_temp_path {path}/proxy;\n  \
                 fastcgi_temp_path {path}/fastcgi;\n  uwsgi_temp_path {path}/uwsgi;\n  \
                 scgi_temp_path {path}/scgi;\n  server {{\n    listen {port};\n    \
                 listen [::]:{port};\n    root {path};\n    \
                 add_header {header} {name} always;\n  }}\n}}\n",
                header = crate::instance::NAME_HEADER,
            ),
        )?;
        let mut command = host.namespace.command("nginx");
        command.args(["-e", "stderr", "-c"]).arg(&file);
        let mut process = Process::start("nginx", &mut command)?;
        let address = SocketAddr::new(host.v4.into(), port);
        let ready = cleanup::within(Duration::from_secs(5), || {
            let connected = host.namespace.enter(|| TcpStream::connect(address).is_ok());
            process.ended().is_some() || connected.unwrap_or_default()
        });
        if !ready || process.ended().is_some() {
            bail!("nginx did not come up: {}", process.log());
        }
        Ok(Self {
            _process: process,
            _folder: folder,
        })
    }
}
