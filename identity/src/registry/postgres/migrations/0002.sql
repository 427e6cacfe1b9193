-- The ends of the audit chains of all tenants, for the checkpoints that are signed of them.

CREATE POLICY of_installation ON weir.audit_heads FOR SELECT USING (
    current_setting('weir.scope', true) = 'installation'
    AND coalesce(current_setting('weir.tenant', true), '') = ''
);

CREATE FUNCTION weir.list_heads(after text, most bigint)
RETURNS TABLE (sequence bigint, hash bytea, tenant text)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('weir.scope', 'installation', true);
    RETURN QUERY
        SELECT h.sequence, h.hash, h.tenant FROM weir.audit_heads h
        WHERE h.tenant > after COLLATE "C" ORDER BY h.tenant LIMIT most;
    PERFORM set_config('weir.scope', '', true);
END
$$;
