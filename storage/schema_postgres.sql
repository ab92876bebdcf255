CREATE TABLE accounts (
    id BIGSERIAL NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    is_admin BOOLEAN NOT NULL,
    is_disabled BOOLEAN NOT NULL,
    epoch BIGINT NOT NULL,
    created_at FLOAT NOT NULL,
    expires_at FLOAT,
    password_hash TEXT COLLATE "C",
    PRIMARY KEY (id),
    CONSTRAINT uq_accounts_name UNIQUE (name)
);

CREATE TABLE audit (
    sequence BIGSERIAL NOT NULL,
    at FLOAT NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    who TEXT COLLATE "C" NOT NULL,
    address TEXT COLLATE "C" NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    is_success BOOLEAN NOT NULL,
    detail TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (sequence)
);

CREATE INDEX ix_audit_at ON audit (at, sequence);

CREATE INDEX ix_audit_who ON audit (who, sequence);

CREATE TABLE blobs (
    id BIGSERIAL NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    size BIGINT NOT NULL,
    created_at FLOAT NOT NULL,
    place TEXT COLLATE "C",
    published_at FLOAT DEFAULT '0' NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT uq_blobs_digest UNIQUE (digest)
);

CREATE TABLE counters (
    name TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    CONSTRAINT pk_counters PRIMARY KEY (name)
);

CREATE TABLE groups (
    id BIGSERIAL NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT uq_groups_name UNIQUE (name)
);

CREATE TABLE manifests (
    id BIGSERIAL NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    artifact_type TEXT COLLATE "C",
    annotations TEXT COLLATE "C" NOT NULL,
    size BIGINT NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT uq_manifests_digest UNIQUE (digest)
);

CREATE TABLE outbox (
    sequence BIGSERIAL NOT NULL,
    at FLOAT NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    repository TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    detail TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (sequence)
);

CREATE TABLE repositories (
    id BIGSERIAL NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    created_at FLOAT NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT uq_repositories_name UNIQUE (name)
);

CREATE TABLE rules (
    subject TEXT COLLATE "C" NOT NULL,
    pattern TEXT COLLATE "C" NOT NULL,
    effect TEXT COLLATE "C" NOT NULL,
    actions TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_rules PRIMARY KEY (subject, pattern, effect)
);

CREATE TABLE settings (
    name TEXT COLLATE "C" NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_settings PRIMARY KEY (name)
);

CREATE TABLE signing_keys (
    number BIGSERIAL NOT NULL,
    created_at FLOAT NOT NULL,
    pem TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_signing_keys PRIMARY KEY (number)
);

CREATE TABLE tasks (
    name TEXT COLLATE "C" NOT NULL,
    holder TEXT COLLATE "C" NOT NULL,
    held_until FLOAT NOT NULL,
    detail TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_tasks PRIMARY KEY (name)
);

CREATE TABLE trash (
    place TEXT COLLATE "C" NOT NULL,
    since FLOAT NOT NULL,
    CONSTRAINT pk_trash PRIMARY KEY (place)
);

CREATE INDEX ix_trash_since ON trash (since);

CREATE TABLE uploads (
    id TEXT COLLATE "C" NOT NULL,
    scope TEXT COLLATE "C" NOT NULL,
    place TEXT COLLATE "C" NOT NULL,
    multipart TEXT COLLATE "C" NOT NULL,
    parts TEXT COLLATE "C" NOT NULL,
    size BIGINT NOT NULL,
    hash_state BYTEA,
    holder TEXT COLLATE "C" NOT NULL,
    held_until FLOAT NOT NULL,
    touched_at FLOAT NOT NULL,
    CONSTRAINT pk_uploads PRIMARY KEY (id)
);

CREATE INDEX ix_uploads_touched ON uploads (touched_at);

CREATE TABLE credentials (
    id BIGSERIAL NOT NULL,
    account_id BIGINT NOT NULL,
    purpose TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    secret_hash TEXT COLLATE "C" NOT NULL,
    created_at FLOAT NOT NULL,
    expires_at FLOAT,
    used_at FLOAT,
    limits TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT uq_credentials_secret_hash UNIQUE (secret_hash),
    FOREIGN KEY(account_id) REFERENCES accounts (id)
);

CREATE INDEX ix_credentials_account ON credentials (account_id, purpose, id);

CREATE TABLE manifest_references (
    manifest_id BIGINT NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_manifest_references PRIMARY KEY (manifest_id, kind, digest),
    FOREIGN KEY(manifest_id) REFERENCES manifests (id)
);

CREATE INDEX ix_manifest_references_digest ON manifest_references (digest, kind);

CREATE TABLE memberships (
    account_id BIGINT NOT NULL,
    group_id BIGINT NOT NULL,
    CONSTRAINT pk_memberships PRIMARY KEY (account_id, group_id),
    FOREIGN KEY(account_id) REFERENCES accounts (id),
    FOREIGN KEY(group_id) REFERENCES groups (id)
);

CREATE INDEX ix_memberships_group ON memberships (group_id, account_id);

CREATE TABLE referrers (
    repository_id BIGINT NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    artifact_type TEXT COLLATE "C",
    manifest_id BIGINT NOT NULL,
    CONSTRAINT pk_referrers PRIMARY KEY (repository_id, subject, digest),
    FOREIGN KEY(repository_id) REFERENCES repositories (id),
    FOREIGN KEY(manifest_id) REFERENCES manifests (id)
);

CREATE INDEX ix_referrers_artifact_type ON referrers (repository_id, subject, artifact_type, digest);

CREATE INDEX ix_referrers_manifest ON referrers (manifest_id);

CREATE TABLE repository_blobs (
    repository_id BIGINT NOT NULL,
    blob_id BIGINT NOT NULL,
    linked_at FLOAT NOT NULL,
    doomed_at FLOAT,
    CONSTRAINT pk_repository_blobs PRIMARY KEY (repository_id, blob_id),
    FOREIGN KEY(repository_id) REFERENCES repositories (id),
    FOREIGN KEY(blob_id) REFERENCES blobs (id)
);

CREATE INDEX ix_repository_blobs_blob ON repository_blobs (blob_id);

CREATE TABLE repository_manifests (
    repository_id BIGINT NOT NULL,
    manifest_id BIGINT NOT NULL,
    media_type TEXT COLLATE "C" NOT NULL,
    pushed_at FLOAT NOT NULL,
    doomed_at FLOAT,
    CONSTRAINT pk_repository_manifests PRIMARY KEY (repository_id, manifest_id),
    FOREIGN KEY(repository_id) REFERENCES repositories (id),
    FOREIGN KEY(manifest_id) REFERENCES manifests (id)
);

CREATE INDEX ix_repository_manifests_manifest ON repository_manifests (manifest_id);

CREATE TABLE tags (
    repository_id BIGINT NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    manifest_id BIGINT NOT NULL,
    updated_at FLOAT NOT NULL,
    CONSTRAINT pk_tags PRIMARY KEY (repository_id, name),
    FOREIGN KEY(repository_id) REFERENCES repositories (id),
    FOREIGN KEY(manifest_id) REFERENCES manifests (id)
);

CREATE INDEX ix_tags_manifest ON tags (manifest_id, repository_id);
