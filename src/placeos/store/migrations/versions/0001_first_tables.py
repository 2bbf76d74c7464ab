"""The first tables: authority, user, api_key, refresh_token, repo, driver, zone, sys, mod, sets.

A constraint is named `<table>.<field>`: the field is what the API names in its answer.
"""

from alembic import op

revision = "0001"
down_revision = None

FUNCTIONS = [
    # What `q` finds: letters and digits in runs, e-mail addresses and the id also as a whole.
    # The collation folds case the same way on every machine.
    """
CREATE FUNCTION placeos_search(id text, VARIADIC source text[]) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    WITH folded AS (
        SELECT lower(left(array_to_string(source, ' '), 100000) COLLATE "pg_c_utf8") AS words
    ), found AS (
        SELECT lower(id) AS word
        UNION SELECT left(match[1], 250) FROM folded,
            regexp_matches(words, '[[:alnum:]]+', 'g') AS match
        UNION SELECT left(match[1], 250) FROM folded,
            regexp_matches(words, '[^[:space:]@<>"'',;:()]+@[^[:space:]@<>"'',;:()]+', 'g')
                AS match
    )
    SELECT array_to_tsvector(array_agg(word)) FROM found WHERE word <> ''
$$""",
    """
CREATE FUNCTION placeos_join(words text[]) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT array_to_string(words, ' ') $$""",
    # A notification only says which record to look at again.
    """
CREATE FUNCTION placeos_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(
        'placeos_changes',
        TG_TABLE_NAME || ' ' || CASE TG_OP WHEN 'DELETE' THEN OLD.id ELSE NEW.id END
    );
    RETURN NULL;
END
$$""",
]

TABLES = {
    "authority": """
CREATE TABLE "authority" (
    id text PRIMARY KEY,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    domain text NOT NULL,
    login_url text NOT NULL,
    logout_url text NOT NULL,
    internals jsonb NOT NULL,
    config jsonb NOT NULL,
    email_domains text[] NOT NULL,
    search tsvector GENERATED ALWAYS AS (placeos_search(id,
        name, domain, description)) STORED
)""",
    "user": """
CREATE TABLE "user" (
    id text PRIMARY KEY,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    authority_id text NOT NULL
        CONSTRAINT "user.authority_id" REFERENCES "authority" (id),
    name text NOT NULL,
    nickname text,
    email text NOT NULL,
    email_digest text NOT NULL,
    phone text,
    country text,
    image text,
    ui_theme text,
    misc text,
    login_name text,
    staff_id text,
    first_name text,
    last_name text,
    building text,
    department text,
    preferred_language text,
    card_number text,
    "groups" text[] NOT NULL,
    sys_admin boolean NOT NULL,
    support boolean NOT NULL,
    password_digest text,
    deleted boolean NOT NULL,
    access_token text,
    refresh_token text,
    expires_at bigint,
    expires boolean NOT NULL,
    locatable boolean NOT NULL,
    login_count bigint NOT NULL,
    last_login bigint,
    logged_out_at bigint,
    work_preferences jsonb NOT NULL,
    work_overrides jsonb NOT NULL,
    photo_upload_id text,
    CONSTRAINT "user.email" UNIQUE (authority_id, email_digest),
    CONSTRAINT "user.login_name" UNIQUE (authority_id, login_name),
    CONSTRAINT "user.staff_id" UNIQUE (authority_id, staff_id),
    search tsvector GENERATED ALWAYS AS (placeos_search(id,
        name, nickname, email, login_name, staff_id, first_name, last_name, department,
        building, phone)) STORED
)""",
    "api_key": """
CREATE TABLE "api_key" (
    id text PRIMARY KEY,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    scopes text[] NOT NULL,
    permissions smallint NOT NULL,
    expires_at bigint,
    user_id text NOT NULL
        CONSTRAINT "api_key.user_id" REFERENCES "user" (id),
    authority_id text NOT NULL
        CONSTRAINT "api_key.authority_id" REFERENCES "authority" (id),
    secret text NOT NULL,
    CONSTRAINT "api_key.name" UNIQUE (authority_id, name),
    search tsvector GENERATED ALWAYS AS (placeos_search(id,
        name, description)) STORED
)""",
    "refresh_token": """
CREATE TABLE refresh_token (
    id text PRIMARY KEY,
    token_hash text NOT NULL CONSTRAINT "refresh_token.token_hash" UNIQUE,
    user_id text NOT NULL
        CONSTRAINT "refresh_token.user_id" REFERENCES "user" (id) ON DELETE CASCADE,
    authority_id text NOT NULL
        CONSTRAINT "refresh_token.authority_id" REFERENCES authority (id) ON DELETE CASCADE,
    client_id text,
    scope text NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    used_at bigint,
    revoked_at bigint,
    family text NOT NULL
)""",
    "repo": """
CREATE TABLE "repo" (
    id text PRIMARY KEY,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    folder_name text NOT NULL,
    uri text NOT NULL,
    commit_hash text NOT NULL,
    branch text NOT NULL,
    deployed_commit_hash text,
    release boolean NOT NULL,
    username text,
    password text,
    repo_type text NOT NULL,
    root_path text,
    has_runtime_error boolean NOT NULL,
    error_message text,
    CONSTRAINT "repo.folder_name" UNIQUE (folder_name, repo_type),
    search tsvector GENERATED ALWAYS AS (placeos_search(id,
        name, folder_name, uri, description, branch)) STORED
)""",
    "driver": """
CREATE TABLE "driver" (
    id text PRIMARY KEY,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    json_schema text NOT NULL,
    default_uri text,
    default_port integer,
    role smallint NOT NULL,
    alert_level text NOT NULL,
    file_name text NOT NULL,
    commit text NOT NULL,
    compilation_output text,
    module_name text NOT NULL,
    ignore_connected boolean NOT NULL,
    update_available boolean NOT NULL,
    update_info jsonb,
    repository_id text NOT NULL
        CONSTRAINT "driver.repository_id" REFERENCES "repo" (id),
    search tsvector GENERATED ALWAYS AS (placeos_search(id,
        name, module_name, file_name, description, default_uri)) STORED
)""",
    "zone": """
CREATE TABLE "zone" (
    id text PRIMARY KEY,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    tags text[] NOT NULL,
    location text,
    display_name text,
    code text,
    type text,
    map_id text,
    place_id text,
    count bigint NOT NULL,
    capacity bigint NOT NULL,
    timezone text,
    triggers text[] NOT NULL,
    images text[] NOT NULL,
    playlists text[] NOT NULL,
    parent_id text
        CONSTRAINT "zone.parent_id" REFERENCES "zone" (id),
    CONSTRAINT "zone.name" UNIQUE (name),
    search tsvector GENERATED ALWAYS AS (placeos_search(id,
        name, display_name, code, type, description, location, placeos_join(tags))) STORED
)""",
    "sys": """
CREATE TABLE "sys" (
    id text PRIMARY KEY,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    features text[] NOT NULL,
    email text,
    bookable boolean NOT NULL,
    public boolean NOT NULL,
    display_name text,
    code text,
    type text,
    map_id text,
    capacity bigint NOT NULL,
    approval boolean NOT NULL,
    images text[] NOT NULL,
    security_groups text[] NOT NULL,
    timezone text,
    support_url text NOT NULL,
    timetable_url text,
    camera_url text,
    room_booking_url text,
    camera_snapshot_urls text[] NOT NULL,
    installed_ui_devices bigint NOT NULL,
    zones text[] NOT NULL,
    modules text[] NOT NULL,
    orientation text NOT NULL,
    playlists text[] NOT NULL,
    signage boolean NOT NULL,
    signage_last_seen bigint NOT NULL,
    playlist_item_id text,
    space_config jsonb NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT "sys.name" UNIQUE (name),
    search tsvector GENERATED ALWAYS AS (placeos_search(id,
        name, display_name, code, type, description, placeos_join(features), email)) STORED
)""",
    "mod": """
CREATE TABLE "mod" (
    id text PRIMARY KEY,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    driver_id text NOT NULL
        CONSTRAINT "mod.driver_id" REFERENCES "driver" (id),
    name text NOT NULL,
    custom_name text,
    role smallint NOT NULL,
    ip text NOT NULL,
    port integer NOT NULL,
    tls boolean NOT NULL,
    udp boolean NOT NULL,
    makebreak boolean NOT NULL,
    uri text NOT NULL,
    control_system_id text
        CONSTRAINT "mod.control_system_id" REFERENCES "sys" (id),
    edge_id text,
    connected boolean NOT NULL,
    running boolean NOT NULL,
    notes text NOT NULL,
    ignore_connected boolean NOT NULL,
    ignore_startstop boolean NOT NULL,
    launch_on_execute boolean NOT NULL,
    alert_level text NOT NULL,
    has_runtime_error boolean NOT NULL,
    error_timestamp bigint,
    search tsvector GENERATED ALWAYS AS (placeos_search(id,
        custom_name, name, ip, uri, notes)) STORED
)""",
    "sets": """
CREATE TABLE "sets" (
    id text PRIMARY KEY,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    parent_id text NOT NULL,
    parent_type text NOT NULL,
    encryption_level smallint NOT NULL,
    settings_string text NOT NULL,
    keys text[] NOT NULL,
    settings_id text,
    modified_by_id text,
    CONSTRAINT "sets.settings_id" FOREIGN KEY (settings_id) REFERENCES sets (id) ON DELETE CASCADE,
    search tsvector GENERATED ALWAYS AS (placeos_search(id,
        placeos_join(keys))) STORED
)""",
}

INDEXES = [
    'CREATE UNIQUE INDEX "authority.domain" ON authority (lower(domain))',
    'CREATE INDEX user_name ON "user" (name, id)',
    'CREATE INDEX user_email ON "user" (lower(email))',
    "CREATE INDEX api_key_user ON api_key (user_id)",
    "CREATE INDEX refresh_token_user ON refresh_token (user_id)",
    "CREATE INDEX refresh_token_family ON refresh_token (family)",
    "CREATE INDEX driver_repository ON driver (repository_id)",
    "CREATE INDEX zone_parent ON zone (parent_id)",
    "CREATE INDEX zone_tags ON zone USING gin (tags)",
    "CREATE INDEX sys_email ON sys (lower(email))",
    "CREATE INDEX sys_zones ON sys USING gin (zones)",
    "CREATE INDEX sys_modules ON sys USING gin (modules)",
    "CREATE INDEX mod_driver ON mod (driver_id)",
    "CREATE INDEX mod_control_system ON mod (control_system_id)",
    "CREATE INDEX sets_parent ON sets (parent_id, encryption_level)",
    "CREATE INDEX sets_history ON sets (settings_id, created_at)",
]


def upgrade() -> None:
    """Create everything."""
    for statement in FUNCTIONS:
        op.execute(statement)
    for table, statement in TABLES.items():
        op.execute(statement)
        op.execute(
            f'CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON "{table}" '
            "FOR EACH ROW EXECUTE FUNCTION placeos_changed()"
        )
        if table != "refresh_token":
            op.execute(f'CREATE INDEX {table}_search ON "{table}" USING gin (search)')
    for statement in INDEXES:
        op.execute(statement)
