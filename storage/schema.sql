CREATE TABLE accounts (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    is_admin BOOLEAN NOT NULL,
    is_disabled BOOLEAN NOT NULL,
    epoch BIGINT NOT NULL,
    created_at FLOAT NOT NULL,
    expires_at FLOAT,
    password_hash TEXT,
    CONSTRAINT uq_accounts_name UNIQUE (name)
);

CREATE TABLE audit (
    sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at FLOAT NOT NULL,
    kind TEXT NOT NULL,
    who TEXT NOT NULL,
    address TEXT NOT NULL,
    request_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    is_success BOOLEAN NOT NULL,
    detail TEXT NOT NULL
);

CREATE INDEX ix_audit_at ON audit (at, sequence);

CREATE INDEX ix_audit_who ON audit (who, sequence);

CREATE TABLE blobs (
    id INTEGER NOT NULL,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL,
    created_at FLOAT NOT NULL,
    place TEXT,
    published_at FLOAT DEFAULT '0' NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT uq_blobs_digest UNIQUE (digest)
);

CREATE TABLE counters (
    name TEXT NOT NULL,
    number BIGINT NOT NULL,
    CONSTRAINT pk_counters PRIMARY KEY (name)
)
 WITHOUT ROWID;

CREATE TABLE groups (
    id INTEGER NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT uq_groups_name UNIQUE (name)
);

CREATE TABLE manifests (
    id INTEGER NOT NULL,
    digest TEXT NOT NULL,
    artifact_type TEXT,
    annotations TEXT NOT NULL,
    size BIGINT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT uq_manifests_digest UNIQUE (digest)
);

CREATE TABLE outbox (
    sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at FLOAT NOT NULL,
    kind TEXT NOT NULL,
    repository TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL
);

CREATE TABLE repositories (
    id INTEGER NOT NULL,
    name TEXT NOT NULL,
    created_at FLOAT NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT uq_repositories_name UNIQUE (name)
);

CREATE TABLE rules (
    subject TEXT NOT NULL,
    pattern TEXT NOT NULL,
    effect TEXT NOT NULL,
    actions TEXT NOT NULL,
    CONSTRAINT pk_rules PRIMARY KEY (subject, pattern, effect)
)
 WITHOUT ROWID;

CREATE TABLE settings (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    CONSTRAINT pk_settings PRIMARY KEY (name)
)
 WITHOUT ROWID;

CREATE TABLE signing_keys (
    number BIGINT NOT NULL,
    created_at FLOAT NOT NULL,
    pem TEXT NOT NULL,
    CONSTRAINT pk_signing_keys PRIMARY KEY (number)
)
 WITHOUT ROWID;

CREATE TABLE tasks (
    name TEXT NOT NULL,
    holder TEXT NOT NULL,
    held_until FLOAT NOT NULL,
    detail TEXT NOT NULL,
    CONSTRAINT pk_tasks PRIMARY KEY (name)
)
 WITHOUT ROWID;

CREATE TABLE trash (
    place TEXT NOT NULL,
    since FLOAT NOT NULL,
    CONSTRAINT pk_trash PRIMARY KEY (place)
)
 WITHOUT ROWID;

CREATE INDEX ix_trash_since ON trash (since);

CREATE TABLE uploads (
    id TEXT NOT NULL,
    scope TEXT NOT NULL,
    place TEXT NOT NULL,
    multipart TEXT NOT NULL,
    parts TEXT NOT NULL,
    size BIGINT NOT NULL,
    hash_state BLOB,
    holder TEXT NOT NULL,
    held_until FLOAT NOT NULL,
    touched_at FLOAT NOT NULL,
    CONSTRAINT pk_uploads PRIMARY KEY (id)
)
 WITHOUT ROWID;

CREATE INDEX ix_uploads_touched ON uploads (touched_at);

CREATE TABLE credentials (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL,
    purpose TEXT NOT NULL,
    name TEXT NOT NULL,
    secret_hash TEXT NOT NULL,
    created_at FLOAT NOT NULL,
    expires_at FLOAT,
    used_at FLOAT,
    limits TEXT NOT NULL,
    CONSTRAINT uq_credentials_secret_hash UNIQUE (secret_hash),
    FOREIGN KEY(account_id) REFERENCES accounts (id)
);

CREATE INDEX ix_credentials_account ON credentials (account_id, purpose, id);

CREATE TABLE manifest_references (
    manifest_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    digest TEXT NOT NULL,
    CONSTRAINT pk_manifest_references PRIMARY KEY (manifest_id, kind, digest),
    FOREIGN KEY(manifest_id) REFERENCES manifests (id)
)
 WITHOUT ROWID;

CREATE INDEX ix_manifest_references_digest ON manifest_references (digest, kind);

CREATE TABLE memberships (
    account_id INTEGER NOT NULL,
    group_id INTEGER NOT NULL,
    CONSTRAINT pk_memberships PRIMARY KEY (account_id, group_id),
    FOREIGN KEY(account_id) REFERENCES accounts (id),
    FOREIGN KEY(group_id) REFERENCES groups (id)
)
 WITHOUT ROWID;

CREATE INDEX ix_memberships_group ON memberships (group_id, account_id);

CREATE TABLE referrers (
    repository_id INTEGER NOT NULL,
    subject TEXT NOT NULL,
    digest TEXT NOT NULL,
    artifact_type TEXT,
    manifest_id INTEGER NOT NULL,
    CONSTRAINT pk_referrers PRIMARY KEY (repository_id, subject, digest),
    FOREIGN KEY(repository_id) REFERENCES repositories (id),
    FOREIGN KEY(manifest_id) REFERENCES manifests (id)
)
 WITHOUT ROWID;

CREATE INDEX ix_referrers_artifact_type ON referrers (repository_id, subject, artifact_type, digest);

CREATE TABLE repository_blobs (
    repository_id INTEGER NOT NULL,
    blob_id INTEGER NOT NULL,
    linked_at FLOAT NOT NULL,
    doomed_at FLOAT,
    CONSTRAINT pk_repository_blobs PRIMARY KEY (repository_id, blob_id),
    FOREIGN KEY(repository_id) REFERENCES repositories (id),
    FOREIGN KEY(blob_id) REFERENCES blobs (id)
)
 WITHOUT ROWID;

CREATE INDEX ix_repository_blobs_blob ON repository_blobs (blob_id);

CREATE TABLE repository_manifests (
    repository_id INTEGER NOT NULL,
    manifest_id INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    pushed_at FLOAT NOT NULL,
    doomed_at FLOAT,
    CONSTRAINT pk_repository_manifests PRIMARY KEY (repository_id, manifest_id),
    FOREIGN KEY(repository_id) REFERENCES repositories (id),
    FOREIGN KEY(manifest_id) REFERENCES manifests (id)
)
 WITHOUT ROWID;

CREATE INDEX ix_repository_manifests_manifest ON repository_manifests (manifest_id);

CREATE TABLE tags (
    repository_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    manifest_id INTEGER NOT NULL,
    updated_at FLOAT NOT NULL,
    CONSTRAINT pk_tags PRIMARY KEY (repository_id, name),
    FOREIGN KEY(repository_id) REFERENCES repositories (id),
    FOREIGN KEY(manifest_id) REFERENCES manifests (id)
)
 WITHOUT ROWID;

CREATE INDEX ix_tags_manifest ON tags (manifest_id, repository_id);
