-- Rows are JSON; a column beside it is there to be searched by. Texts are compared by their bytes.
-- Each row belongs to a tenant. The session names the tenant for the time of one transaction
-- (weir.tenant); without one, five functions read across tenants.

CREATE TABLE weir.tenants (
    tenant text COLLATE "C" PRIMARY KEY,
    body jsonb NOT NULL
);

CREATE TABLE weir.credentials (
    id text COLLATE "C" PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    class text COLLATE "C" NOT NULL,
    device text COLLATE "C",
    last_use bigint,
    body jsonb NOT NULL
);
CREATE INDEX credentials_of_devices ON weir.credentials (tenant, device, id) WHERE device IS NOT NULL;
CREATE INDEX credentials_of_tenants ON weir.credentials (tenant, class, id) WHERE device IS NULL;

CREATE TABLE weir.requests (
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    at bigint NOT NULL,
    body jsonb NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX requests_by_age ON weir.requests (tenant, at);

-- The bytes of an event are hashed as they are.
CREATE TABLE weir.audit (
    tenant text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    hash bytea NOT NULL,
    event bytea NOT NULL,
    PRIMARY KEY (tenant, sequence)
);

CREATE TABLE weir.audit_heads (
    tenant text COLLATE "C" PRIMARY KEY,
    sequence bigint NOT NULL,
    hash bytea NOT NULL
);

CREATE TABLE weir.control (
    number bigint PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    body jsonb NOT NULL
);

-- One row: the number of the newest entry of the control log. A change locks it last.
CREATE TABLE weir.control_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    newest bigint NOT NULL
);
INSERT INTO weir.control_head (newest) VALUES (0);

CREATE TABLE weir.peppers (
    version bigint PRIMARY KEY,
    fingerprint bytea NOT NULL
);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['tenants', 'credentials', 'requests', 'audit', 'audit_heads', 'control'] LOOP
        EXECUTE format('ALTER TABLE weir.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE weir.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY of_tenant ON weir.%I USING (tenant = current_setting(''weir.tenant'', true)) '
            'WITH CHECK (tenant = current_setting(''weir.tenant'', true))',
            name
        );
    END LOOP;
    -- Set by the functions below for their own time, and without effect in a session of a tenant.
    FOREACH name IN ARRAY ARRAY['tenants', 'credentials', 'control'] LOOP
        EXECUTE format(
            'CREATE POLICY of_installation ON weir.%I FOR SELECT USING ('
            'current_setting(''weir.scope'', true) = ''installation'' '
            'AND coalesce(current_setting(''weir.tenant'', true), '''') = '''')',
            name
        );
    END LOOP;
END
$$;

CREATE POLICY trim ON weir.control FOR DELETE USING (
    current_setting('weir.scope', true) = 'installation'
    AND coalesce(current_setting('weir.tenant', true), '') = ''
    AND number <= (SELECT newest FROM weir.control_head) - 10000
);

CREATE FUNCTION weir.find_credential(wanted text)
RETURNS TABLE (body text, tenant_body text, last_use bigint)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('weir.scope', 'installation', true);
    RETURN QUERY
        SELECT c.body::text, t.body::text, c.last_use
        FROM weir.credentials c LEFT JOIN weir.tenants t ON t.tenant = c.tenant
        WHERE c.id = wanted;
    PERFORM set_config('weir.scope', '', true);
END
$$;

CREATE FUNCTION weir.tenants_of(wanted text[])
RETURNS TABLE (tenant text, id text)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('weir.scope', 'installation', true);
    RETURN QUERY SELECT c.tenant, c.id FROM weir.credentials c WHERE c.id = ANY (wanted);
    PERFORM set_config('weir.scope', '', true);
END
$$;

CREATE FUNCTION weir.list_tenants(after text, most bigint)
RETURNS TABLE (body text)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('weir.scope', 'installation', true);
    RETURN QUERY
        SELECT t.body::text FROM weir.tenants t WHERE t.tenant > after COLLATE "C" ORDER BY t.tenant LIMIT most;
    PERFORM set_config('weir.scope', '', true);
END
$$;

-- The newest number, and with it the entries: at least one row.
CREATE FUNCTION weir.changes_after(after bigint, most bigint)
RETURNS TABLE (newest bigint, number bigint, body text)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('weir.scope', 'installation', true);
    RETURN QUERY
        SELECT h.newest, c.number, c.body::text
        FROM weir.control_head h
        LEFT JOIN LATERAL (
            SELECT e.number, e.body FROM weir.control e
            WHERE e.number > after AND e.number > h.newest - 10000
            ORDER BY e.number LIMIT most
        ) c ON true
        ORDER BY c.number;
    PERFORM set_config('weir.scope', '', true);
END
$$;

CREATE FUNCTION weir.trim_control()
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('weir.scope', 'installation', true);
    DELETE FROM weir.control c WHERE c.number <= (SELECT h.newest FROM weir.control_head h) - 10000;
    PERFORM set_config('weir.scope', '', true);
END
$$;
