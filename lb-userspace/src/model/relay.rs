//! What a relay tells apart.

labelled! {
    /// Why a relay has reset a client's connection instead of passing it on.
    RelayRefusal {
        /// No instance takes connections.
        NoInstance: "no_instance";
        /// Instances, or the service, have as many as they may have.
        Limit: "limit";
        /// No instance that was tried has accepted the connection.
        ConnectFailed: "connect_failed";
        /// The relay has as many connections as it may have.
        MaxConnections: "max_connections";
        /// The source ACL denies the client.
        SourceDenied: "source_denied";
    }
}
