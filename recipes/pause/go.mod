module furrow/pause

go 1.26
