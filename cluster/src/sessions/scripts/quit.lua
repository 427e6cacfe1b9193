-- ARGV node
if is_up(ARGV[1]) then bury(ARGV[1]) end
return 'left'
