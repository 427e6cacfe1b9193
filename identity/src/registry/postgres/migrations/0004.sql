-- Devices that were registered, and the terms by which they are found. A term is a row, since the
-- guard between tenants keeps an inverted index from being used.

CREATE TABLE weir.devices (
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    body jsonb NOT NULL,
    PRIMARY KEY (tenant, id)
);

CREATE TABLE weir.device_terms (
    tenant text COLLATE "C" NOT NULL,
    term text COLLATE "C" NOT NULL,
    device text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, term, device)
);

CREATE TABLE weir.device_counts (
    tenant text COLLATE "C" PRIMARY KEY,
    devices bigint NOT NULL
);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['devices', 'device_terms', 'device_counts'] LOOP
        EXECUTE format('ALTER TABLE weir.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE weir.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY of_tenant ON weir.%I USING (tenant = current_setting(''weir.tenant'', true)) '
            'WITH CHECK (tenant = current_setting(''weir.tenant'', true))',
            name
        );
    END LOOP;
END
$$;
